"""JSON lines --types of columns, by all rows--> columns by name, in blocks of some MiB."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from producer.rows.readers import BatchReader
from producer.rows.source import Table
from producer.sources.files import find_data, span_of
from producer.sources.formats.block_index import Block, FileBlocks, split_source
from producer.sources.formats.common_columns import common_columns
from tasks.datasets.formats.jsonl import blocks_of, kinds_of
from tasks.datasets.open_file import Opener
from tasks.datasets.read_errors import one_line_errors
from worker_config.columns import expanded
from worker_config.errors import InputError
from worker_config.foreign_errors import import_optional


def open_jsonl(path: str | Path, columns: Sequence[str] | None = None) -> BatchReader:
    """Open a file of JSON lines, an object each, those of a folder or of a pattern, in sorted order; also by URL.

    Columns are as of `open_parquet`; dates are text; what a line lacks is null. The files are read twice, as those of
    CSV are.

    Raises:
        InputError: no such file or column, lines that are no objects or do not fit together.
        ConfigError: pyarrow is not installed.
    """
    arrow = import_optional("pyarrow", "parquet")
    import_optional("pyarrow.json", "parquet")
    files: list[FileBlocks] = []
    schemas: list[Any] = []
    for file in map(span_of, find_data(path, ".jsonl")):
        blocks: list[Block] = []
        with one_line_errors(file.path), Opener().open(file) as opened:
            for block, schema in blocks_of(opened, file.path):
                blocks.append(block)
                schemas += [] if schema is None else [schema]
        files.append(FileBlocks(file, "jsonl", blocks))
    label, where = Path(path).name, str(path)
    try:
        schema = arrow.unify_schemas(schemas, promote_options="permissive") if schemas else arrow.schema([])
    except (arrow.ArrowInvalid, arrow.ArrowTypeError) as error:
        raise InputError(
            f"{where}: lines do not fit together: {' '.join(str(error).split())}; write all alike"
        ) from error

    def reader(named: Sequence[str] | None) -> BatchReader:
        names, others = common_columns([(where, schema)], named)
        taken = arrow.schema(
            [field for field in schema if any(f"{one}.".startswith(f"{field.name}.") for one in names)]
        )
        return split_source(label, files, names, kinds_of(taken)).in_order(Table(names, reader, others))

    named = [columns] if isinstance(columns, str) else columns
    return reader(expanded(named) if named else named)
