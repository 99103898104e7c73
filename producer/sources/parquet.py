"""Columns of Parquet files --> arrays by name, some thousand rows at a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from producer.rows.read_errors import import_optional, one_line_errors
from producer.rows.source import MAX_BATCH_BYTES, Batches, BatchReader
from producer.sources.arrow import check_type, column_of, plain_type
from producer.sources.files import find_files
from worker_config.errors import InputError

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
        columns: names of the columns to read; all if left out.

    Raises:
        InputError: no such file or column, files that do not fit together, a type that no model takes.
        ConfigError: pyarrow is not installed.
    """
    parquet = import_optional("pyarrow.parquet", "parquet")
    files = find_files(path, ".parquet")
    chosen = [columns] if isinstance(columns, str) else columns
    rows = 0
    types: dict[str, Any] = {}
    for file in files:
        with one_line_errors(str(file)), parquet.ParquetFile(file) as opened:
            rows += opened.metadata.num_rows
            actual = {field.name: plain_type(field.type) for field in opened.schema_arrow}
        chosen = list(actual) if chosen is None else chosen
        _check_columns(file, actual, chosen, types)
        types = {name: actual[name] for name in chosen}
    return BatchReader(Path(path).name, rows, lambda: _read(parquet, files, list(types)))


def _check_columns(file: Path, actual: dict[str, Any], chosen: Sequence[str], before: dict[str, Any]) -> None:
    listed = ", ".join(map(repr, actual)) or "none"
    if not chosen:
        raise InputError(f"{file}: no columns to read; its columns are {listed}")
    for name in chosen:
        if name not in actual:
            raise InputError(f"{file}: has no column {name!r}; its columns are {listed}")
        check_type(actual[name], f"{file}: column {name!r}")
        if actual[name] != before.get(name, actual[name]):
            raise InputError(
                f"{file}: column {name!r} is {actual[name]}, in the files before {before[name]}; write all alike"
            )


def _read(parquet: Any, files: list[Path], columns: list[str]) -> Batches:
    for file in files:
        first_row = 0
        with one_line_errors(str(file)), parquet.ParquetFile(file, **_BOUNDED) as opened:
            for batch in opened.iter_batches(_batch_rows(opened, columns), columns=columns):
                yield {name: column_of(batch.column(name), f"{file}: column {name!r}", first_row) for name in columns}
                first_row += batch.num_rows


def _batch_rows(opened: Any, columns: list[str]) -> int:
    probe = next(opened.iter_batches(_PROBED_ROWS, columns=columns), None)
    if probe is None or probe.num_rows == 0:
        return _MAX_BATCH_ROWS
    return max(1, min(_MAX_BATCH_ROWS, int(MAX_BATCH_BYTES * probe.num_rows // max(1, probe.nbytes))))
