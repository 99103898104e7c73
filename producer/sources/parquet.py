"""Columns of Parquet files --> arrays by name, some thousand rows at a time."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

from producer.rows.readers import BatchReader
from producer.rows.source import Table
from producer.sources.files import find_files
from tasks.datasets.arrow import check_type, is_taken, rows_of, type_of
from tasks.datasets.columns import check_names, missing_column
from tasks.datasets.formats.parquet_pages import page_sizes
from tasks.datasets.input_limit import InputLimit, input_limit
from tasks.datasets.read_errors import one_line_errors
from tasks.datasets.rows import MAX_BATCH_BYTES, Batches
from worker_config.columns import expanded
from worker_config.errors import InputError
from worker_config.optional_imports import import_optional

# Measured on the first rows of each file, and bounded, since later rows may be larger.
_PROBED_ROWS = 64
_MAX_BATCH_ROWS = 65536

# Otherwise pyarrow keeps what it has read of the file until the end.
_BOUNDED = {"pre_buffer": False, "buffer_size": 2**20}


def open_parquet(path: str | Path, columns: Sequence[str] | None = None) -> BatchReader:
    """Open a Parquet file, the `.parquet` files of a folder or those of a pattern, in sorted order.

    Numbers, booleans, strings and binary are taken, and lists of these: of equal length as arrays with one more
    axis, of different lengths as a list of arrays.

    Args:
        path: a file, a folder or a pattern.
        columns: names of the columns to read; fields of structs are named with a dot, as `image.bytes`, and p0..p783
            are p0, p1 and so on. If left out, all of types that some model takes. Dates come as text, if named.

    Raises:
        InputError: no such file or column, files that do not fit together, a type that no model takes.
        ConfigError: pyarrow is not installed.
    """
    parquet = import_optional("pyarrow.parquet", "parquet")
    files = find_files(path, ".parquet")
    chosen = [columns] if isinstance(columns, str) else columns
    chosen = expanded(chosen) if chosen else chosen
    rows, limit = 0, input_limit()
    types: dict[str, Any] = {}
    others: dict[str, str] = {}
    for file in files:
        with one_line_errors(str(file)), parquet.ParquetFile(file) as opened:
            _check_footer(opened.metadata, str(file), limit)
            rows += opened.metadata.num_rows
            schema = opened.schema_arrow
        check_names(schema.names, str(file))
        if chosen is None:
            others = {field.name: str(field.type) for field in schema if not is_taken(field.type)}
            chosen = [name for name in schema.names if name not in others] or schema.names
        types = _checked(file, schema, chosen, types, named=columns is not None)

    def read() -> Batches:
        return _read(parquet, files, list(types), limit)

    table = Table(list(types), lambda names: open_parquet(path, names), others)
    return BatchReader(Path(path).name, rows, read, table=table)


def _checked(file: Path, schema: Any, chosen: Sequence[str], before: dict[str, Any], *, named: bool) -> dict[str, Any]:
    """The types of the columns that were chosen, which are those of the files before."""
    if not chosen:
        raise InputError(f"{file}: no columns to read; its columns are {', '.join(map(repr, schema.names)) or 'none'}")
    types = {name: type_of(schema, name) for name in chosen}
    for name, kind in types.items():
        if kind is None:
            raise missing_column(str(file), name, schema.names)
        check_type(kind, f"{file}: column {name!r}", named=named)
        if kind != before.get(name, kind):
            raise InputError(f"{file}: column {name!r} is {kind}, in the files before {before[name]}; write all alike")
    return types


def _check_footer(metadata: Any, where: str, limit: InputLimit) -> None:
    """Refuse numbers of rows that do not add up, and rows that are larger than they may be."""
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    if sum(group.num_rows for group in groups) != metadata.num_rows or any(group.num_rows < 0 for group in groups):
        raise InputError(f"{where}: its numbers of rows do not add up; the file is damaged: write it again")
    for number, group in enumerate(groups):
        columns = [group.column(position) for position in range(group.num_columns)]
        if any(column.num_values < group.num_rows for column in columns):
            raise InputError(f"{where}: row group {number} has columns of fewer rows than it has; write it again")
        for column in columns:
            size = max(column.total_uncompressed_size, column.num_values) // max(1, group.num_rows)
            limit.check(size, where, f"a row of row group {number} in column {column.path_in_schema!r}")


def _largest_page(file: Path, metadata: Any, columns: list[str], limit: InputLimit) -> int:
    """Bytes in memory of the largest page of these columns, none of which is larger than it may be."""
    largest = 0
    with file.open("rb") as stream:
        for number, position in product(range(metadata.num_row_groups), range(metadata.num_columns)):
            column = metadata.row_group(number).column(position)
            is_read = any(f"{column.path_in_schema}.".startswith(f"{name}.") for name in columns)
            if not is_read or not column.num_values:
                continue  # without values there need be no pages
            starts = [column.data_page_offset]
            if column.has_dictionary_page and column.dictionary_page_offset:
                starts.append(column.dictionary_page_offset)
            start = min(starts)
            for size in page_sizes(stream, start, start + column.total_compressed_size):
                limit.check(size, str(file), f"a page of column {column.path_in_schema!r}")
                largest = max(largest, size)
    return largest


def _read(parquet: Any, files: list[Path], columns: list[str], limit: InputLimit) -> Batches:
    for file in files:
        first_row = 0
        with one_line_errors(str(file)), parquet.ParquetFile(file, **_BOUNDED) as opened:
            page_bytes = _largest_page(file, opened.metadata, columns, limit)
            most_rows = max(1, limit.bytes // page_bytes) if page_bytes > MAX_BATCH_BYTES else _MAX_BATCH_ROWS
            for batch in opened.iter_batches(_batch_rows(opened, columns, most_rows), columns=columns):
                yield rows_of(batch, columns, str(file), first_row)
                first_row += batch.num_rows


def _batch_rows(opened: Any, columns: list[str], most_rows: int) -> int:
    most_rows = min(most_rows, _MAX_BATCH_ROWS)
    probe = next(opened.iter_batches(min(_PROBED_ROWS, most_rows), columns=columns), None)
    if probe is None or probe.num_rows == 0:
        return most_rows
    return max(1, min(most_rows, int(MAX_BATCH_BYTES * probe.num_rows // max(1, probe.nbytes))))
