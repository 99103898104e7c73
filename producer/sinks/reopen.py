"""This module reads an output that has its name, from its first row to its last, as `producer.sources` does."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self, TypeAlias, cast

import numpy as np

from producer.rows.part import Array
from producer.rows.rebatcher import Rebatcher
from producer.rows.source import Arrays, BatchSource, Source
from producer.sinks.parquet import ROW, row_shapes
from producer.sources.arrays import ArraySource
from producer.sources.numpy_files import open_file
from producer.sources.parquet import open_parquet
from producer.sources.zarr import open_zarr
from tasks.protocol.trees import Key
from worker_config.errors import OutputError

# What can be read as it was written; JSON has neither dtypes nor NaN.
READABLE = (".npy", ".npz", ".parquet", ".zarr")

_Columns: TypeAlias = dict[str, Array]


def check_readable(path: Path) -> None:
    """Make sure that an output is of a format that can be read back.

    Raises:
        OutputError: it is not.
    """
    if path.suffix.lower() not in READABLE:
        raise OutputError(
            f"{path}: outputs of this type cannot be read back as they were, so no row of it can be predicted alone; "
            f"predict all rows again with --force, into {', '.join(READABLE)} if this may happen again"
        )


class Written:
    """A finished output, read in order, once; without the rows' numbers, and the `mark` of those that failed.

    As a context manager it closes its files.

    Attributes:
        rows: how many it has.
        row_bytes: about what one of them takes.
    """

    def __init__(self, path: Path, mark: str = "") -> None:
        self._left_out = {ROW, mark} if path.suffix.lower() == ".parquet" else {mark}
        self._source = _open(path)
        self.rows = self._source.rows or 0
        self.row_bytes = self._source.row_bytes if isinstance(self._source, Source) else 0.0
        self._next = 0
        self._waiting = Rebatcher()
        self._shapes = row_shapes(path) if path.suffix.lower() == ".parquet" else {}
        self._batches = self._source.batches() if isinstance(self._source, BatchSource) else None
        if self._batches and (first := next(self._batches, None)) is not None:
            self._waiting.add(first)
            self._no_rows = self._shaped({name: column[:0] for name, column in cast("_Columns", first).items()})
            self.row_bytes = self._waiting.bytes / max(1, self._waiting.rows)

    def take(self, rows: int) -> dict[Key, Array]:
        """The next rows, by output: `()` for an array without a name, else the name in the file.

        Raises:
            InputError: they cannot be read.
        """
        start, self._next = self._next, self._next + rows
        if self._batches is None:
            taken = cast("Source", self._source).take(start, self._next)
            return {
                key: array.astype(self._dtype(key, array), copy=False)
                for key, array in _by_key(taken).items()
                if self._left_out.isdisjoint(key)
            }
        while self._waiting.rows < rows and (batch := next(self._batches, None)) is not None:
            self._waiting.add(batch)
        return self._shaped(cast("_Columns", self._waiting.take(rows)[0])) if rows else self._no_rows

    def _shaped(self, columns: _Columns) -> dict[Key, Array]:
        """Undo what `ParquetWriter` does to rows of a higher rank."""
        return {
            (name,): column.reshape(len(column), *self._shapes.get(name, column.shape[1:]))
            for name, column in columns.items()
            if name not in self._left_out
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._batches is not None:
            self._batches.close()

    def _dtype(self, key: Key, array: Array) -> np.dtype[np.generic]:
        """As it is in the file: text of fixed width comes as objects, but cannot be written so."""
        if not isinstance(self._source, ArraySource):
            return array.dtype
        data = self._source.data
        written = data[key[0]] if isinstance(data, dict) else cast("Array", data)
        return written.dtype if written.dtype.kind in "US" else array.dtype


def _open(path: Path) -> Source | BatchSource:
    suffix = path.suffix.lower()
    if suffix == ".zarr":
        return open_zarr(path, nested=True)
    return open_parquet(path) if suffix == ".parquet" else open_file(path)


def _by_key(rows: Arrays) -> dict[Key, Array]:
    return {(name,): array for name, array in rows.items()} if isinstance(rows, dict) else {(): cast("Array", rows)}
