"""A finished output is read back, from its first row to its last.

file --producer.sources--> batches --Rebatcher--> rows by output, as they were written
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self, cast

import numpy as np

from producer.rows.readers import batches_of
from producer.rows.source import BatchSource, Source
from producer.sources.arrays import ArraySource
from producer.sources.formats.arrow_ipc import open_arrow
from producer.sources.formats.parquet import open_parquet
from producer.sources.formats.zarr import open_zarr
from producer.sources.numpy_files import open_file
from tasks.datasets.arrow import rows_of
from tasks.datasets.columns import columns_of
from tasks.datasets.marked import masked, nulls_of, plain
from tasks.datasets.rebatcher import Rebatcher, columns, with_columns
from tasks.datasets.rows import MAX_BATCH_BYTES, Batches, Rows
from tasks.outputs.arrow import bytes_columns, row_shapes
from tasks.outputs.writer import ROW
from tasks.protocol.codec import Array, Key
from worker_config.foreign_errors import import_optional

# What can be read as it was written; lines of text have neither dtypes nor, in JSON, NaN.
READABLE = (".npy", ".npz", ".parquet", ".feather", ".zarr")
_ARROW = (".parquet", ".feather")


class OutputReader:
    """A finished output, read in order, once; without the rows' numbers, and the `mask` of those that failed.

    It has so many `rows`, of about so many `row_bytes`; texts of columns in `holds_bytes` are bytes, whatever they are
    called. As a context manager it closes its files.
    """

    rows: int
    row_bytes: float
    holds_bytes: set[str]

    def __init__(self, path: Path, mask: str = "") -> None:
        suffix = path.suffix.lower()
        arrow = import_optional("pyarrow", "parquet") if suffix in _ARROW else None
        self._hidden = {name for name in (mask, ROW if suffix in _ARROW else "") if name}
        schema: Any = _schema(path) if arrow else ()
        self._shapes = row_shapes(schema)
        self.holds_bytes = bytes_columns(arrow, schema) if arrow else set[str]()
        source = _open(path)
        self._dtypes = _text_dtypes(source)
        self._batches = batches_of(source) if isinstance(source, BatchSource) else _blocks(source)
        self._waiting = Rebatcher()
        self.rows = source.rows or 0
        first = next(self._batches, None)
        if first is None and arrow:  # a file of no rows has columns all the same
            first = rows_of(arrow.RecordBatch.from_pylist([], schema=schema), schema.names, str(path), 0)
        if first is not None:
            self._waiting.add(first)
            self._no_rows = self._outputs(with_columns(plain(first), [column[:0] for column in columns(first)]))
        self.row_bytes = self._waiting.bytes / max(1, self._waiting.rows)

    def read(self, rows: int) -> dict[Key, Array]:
        """The next rows, by output: `()` for an array without a name, else the name in the file."""
        while self._waiting.rows < rows and (batch := next(self._batches, None)) is not None:
            self._waiting.add(batch)
        return self._outputs(self._waiting.take(rows)[0]) if rows else self._no_rows

    def _outputs(self, rows: Rows) -> dict[Key, Array]:
        """Undo what `ParquetWriter` does to rows of a higher rank, and sources to text and nulls."""
        outputs: dict[Key, Array] = {}
        for name, array in cast("dict[str, Array]", columns_of(plain(rows), "the output")).items():
            if name not in self._hidden:
                shaped = array.reshape(len(array), *self._shapes.get(name, array.shape[1:]))
                shaped = shaped.astype(self._dtypes.get(name, array.dtype), copy=False)
                nulls = nulls_of(rows).get(name, np.zeros(len(array), np.bool_))
                outputs[(name,) if name else ()] = masked(shaped, nulls)
        return outputs

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._batches.close()


def _open(path: Path) -> Source | BatchSource:
    suffix = path.suffix.lower()
    if suffix == ".zarr":
        return open_zarr(path, nested=True)
    if suffix in _ARROW:
        return open_parquet(path) if suffix == ".parquet" else open_arrow(path)
    return open_file(path)


def _schema(path: Path) -> Any:
    if path.suffix.lower() == ".parquet":
        return import_optional("pyarrow.parquet", "parquet", str(path)).read_schema(path)
    with path.open("rb") as file:
        return import_optional("pyarrow.ipc", "parquet", str(path)).open_file(file).schema


def _blocks(source: Source) -> Batches:
    rows = max(1, int(MAX_BATCH_BYTES / max(1.0, source.row_bytes)))
    for start in range(0, max(1, source.rows), rows):
        yield cast("Rows", source.take(start, min(start + rows, source.rows)))


def _text_dtypes(source: Source | BatchSource) -> dict[str, np.dtype[np.generic]]:
    """As it is in the file: text of fixed width comes as objects, but cannot be written so."""
    arrays = columns_of(source.data, source.label) if isinstance(source, ArraySource) else {}
    return {name: array.dtype for name, array in arrays.items() if array.dtype.kind in "US"}
