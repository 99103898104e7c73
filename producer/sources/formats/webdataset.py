"""WebDataset shards --headers of their members alone--> a data set with a column for each extension."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from producer.rows.readers import BatchReader
from producer.rows.source import Table
from producer.sources.files import find_data, span_of
from producer.sources.formats.block_index import FileBlocks, indexed, split_source
from tasks.datasets.columns import missing_column
from tasks.datasets.formats.webdataset import KEY, blocks_of, extensions_of
from tasks.datasets.open_file import Opener
from tasks.datasets.read_errors import one_line_errors
from worker_config.errors import InputError


def open_webdataset(path: str | Path, columns: Sequence[str] | None = None) -> BatchReader:
    """Open a tar file, those of a folder or of a pattern, in sorted order, of which members of one key are a row.

    `000/17.jpg` and `000/17.cls` are the columns `jpg` and `cls` of one row, as bytes; `__key__` is `000/17`. The first
    row says which columns there are, and one that lacks any of them fails alone.

    Raises:
        InputError: no such file, none with members, or a column that the first row has not.
    """
    files = [span_of(file) for file in find_data(path, ".tar")]
    known: list[str] = []
    for file in files:
        if not known:
            with one_line_errors(file.path), Opener().open(file) as opened:
                known = extensions_of(opened)
    if not known:
        raise InputError(f"{path}: has no members whose names are KEY.EXTENSION; write it as WebDataset does")

    @cache
    def blocks() -> list[FileBlocks]:
        return [indexed(file, "webdataset", blocks_of) for file in files]

    def reader(names: Sequence[str]) -> BatchReader:
        for name in names:
            if name not in (*known, KEY):
                raise missing_column(files[0].path, name, [*known, KEY])
        return split_source(Path(path).name, blocks(), names).in_order(Table(names, reader, {KEY: "text"}))

    named = [columns] if isinstance(columns, str) else columns
    return reader(named or known)
