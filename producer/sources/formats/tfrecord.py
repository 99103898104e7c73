"""TFRecord files --in order, or by an index of their records--> rows, which are the bytes of the records."""

from __future__ import annotations

import gzip
from collections.abc import Generator
from functools import cache
from pathlib import Path

from producer.rows.readers import BatchReader
from producer.rows.source import Splits
from producer.sources.files import find_data, span_of
from producer.sources.formats.block_index import indexed, split_source
from producer.sources.formats.split_source import SplitSource
from tasks.datasets.formats.tfrecord import BATCH_ROWS, blocks_of, records
from tasks.datasets.gather import gather
from tasks.datasets.input_limit import InputLimit, input_limit
from tasks.datasets.open_file import Opener
from tasks.datasets.read_errors import one_line_errors
from tasks.protocol.split_ref import FileSpan
from worker_config.foreign_errors import import_optional


def open_tfrecord(path: str | Path) -> BatchReader:
    """Open a TFRecord file, or those of a folder or a pattern, sorted; also by URL. Those in `.gz` are gzip-compressed.

    Raises:
        InputError: no such file; from the iterator, a record that is damaged, cut short or larger than it may be.
        ConfigError: google-crc32c is not installed.
    """
    import_optional("google_crc32c", "tfrecord")
    files = [span_of(file) for file in find_data(path, ".tfrecord")]
    label, limit = Path(path).name, input_limit()
    packed = any(_is_packed(file) for file in files)

    @cache
    def splits() -> SplitSource:
        return split_source(label, [indexed(file, "tfrecord", blocks_of) for file in files])

    offered = None if packed else Splits("tfrecord", lambda: (file.path for file in files), splits)
    return BatchReader(label, None, lambda: gather(_records(files, limit), label, BATCH_ROWS), splits=offered)


def _records(files: list[FileSpan], limit: InputLimit) -> Generator[bytes, None, None]:
    for file in files:
        with one_line_errors(file.path), Opener().open(file) as raw:
            if _is_packed(file):
                with gzip.open(raw) as stream:
                    yield from records(stream.read, file.path, limit)
            else:
                yield from records(raw.read, file.path, limit)


def _is_packed(file: FileSpan) -> bool:
    return file.path.lower().endswith(".gz")
