"""Zarr arrays, alone or in a group, --whole chunks, each one once--> rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from producer.rows.readers import SliceReader
from producer.rows.source import Table
from tasks.datasets.columns import (
    check_lengths,
    check_rows,
    is_taken,
    missing_column,
    no_array,
    place,
    row_bytes,
    taken_dtype,
)
from tasks.datasets.input_limit import InputLimit, input_limit
from tasks.datasets.read_errors import one_line_errors
from tasks.datasets.rows import MAX_BATCH_BYTES, Arrays
from tasks.outputs.zarr import has_metadata
from tasks.protocol.codec import Array
from worker_config.errors import InputError, UsageError
from worker_config.optional_imports import import_optional

# Where a chunk stands in a shard, and how long it is.
_SHARD_ENTRY_BYTES = 16


def is_zarr(folder: Path) -> bool:
    """Whether a folder is one Zarr store, rather than a folder of files."""
    return folder.suffix.lower() == ".zarr" or has_metadata(folder)


def open_zarr(path: str | Path, nested: bool = False, array: str | None = None) -> SliceReader:
    """Open a folder that holds a Zarr array, or a group, whose arrays are then taken by name, or one `array` of it.

    With `nested`, those of groups in the group are taken too, by names such as "group/array".

    Raises:
        InputError: no such folder, no arrays in it, or arrays that are no rows of one data set.
        ConfigError: zarr is not installed.
    """
    zarr = import_optional("zarr", "zarr")
    path = Path(path)
    where = str(path)
    if not path.is_dir():
        raise InputError(f"{where}: no such folder; check the path")
    with one_line_errors(where):
        try:
            opened = zarr.open(path, mode="r")
        except FileNotFoundError as error:
            raise InputError(f"{where}: is no Zarr array or group; name the folder that zarr.save wrote") from error
        is_one = isinstance(opened, zarr.Array)
        arrays = {"": opened} if is_one else dict(sorted(_arrays(opened, nested or array is not None)))
    if array is not None:
        if is_one:
            raise UsageError(f"{where}: is one array; leave out the name {array!r}")
        if array not in arrays:
            raise no_array(where, array, arrays)
        arrays = {"": arrays[array]}
    if not arrays:
        raise InputError(f"{where}: holds no arrays; give at least one")
    others = {name: str(one.dtype) for name, one in arrays.items() if name and not is_taken(np.dtype(one.dtype))}
    taken = {name: one for name, one in arrays.items() if name not in others} or arrays
    for name, one in taken.items():
        check_rows(np.dtype(one.dtype), one.ndim, place(where, name))
    check_lengths({name: one.shape[0] for name, one in arrays.items() if one.ndim}, where)
    return _reader(path.name, where, arrays, list(taken), others)


def _reader(
    label: str, where: str, arrays: Mapping[str, Any], names: Sequence[str], others: Mapping[str, str]
) -> SliceReader:
    """Those of the arrays that have these names."""
    for name in names:
        if name not in arrays:
            raise missing_column(where, name, arrays)
        check_rows(np.dtype(arrays[name].dtype), arrays[name].ndim, place(where, name))
    readers = {name: _BlockReader(arrays[name], place(where, name)) for name in names}

    def read(start: int, stop: int) -> Arrays:
        read = {name: reader.read(start, stop) for name, reader in readers.items()}
        return read.get("", read)

    row_bytes, rows = sum(reader.row_bytes for reader in readers.values()), arrays[names[0]].shape[0]
    table = None if "" in arrays else Table(names, lambda chosen: _reader(label, where, arrays, chosen, {}), others)
    return SliceReader(label, rows, row_bytes, read, table=table)


def _arrays(group: Any, nested: bool) -> Iterator[tuple[str, Any]]:
    yield from group.arrays()
    for name, below in group.groups() if nested else ():
        yield from ((f"{name}/{inner}", array) for inner, array in _arrays(below, nested))


class _BlockReader:
    """Reads an array by blocks of whole chunks, of about 16 MiB or one chunk, and keeps the last one.

    Rows are taken in order and rarely end where a chunk does: this way no chunk is decompressed twice.
    """

    def __init__(self, array: Any, where: str) -> None:
        self._array = array
        self._where = where
        self._kept: tuple[int, Array] | None = None
        self._block_rows = max(1, array.chunks[0])
        self._check(input_limit())
        if taken_dtype(np.dtype(array.dtype)).hasobject:
            self.row_bytes = row_bytes(self._block(0))  # strings tell their size when they are read
        else:
            self.row_bytes = float(math.prod(array.shape[1:]) * np.dtype(array.dtype).itemsize)
            chunk_bytes = max(1, int(self._block_rows * self.row_bytes))
            self._block_rows *= max(1, MAX_BATCH_BYTES // chunk_bytes)

    def _check(self, limit: InputLimit) -> None:
        """Refuse chunks, or rows of whole chunks, that are larger in memory than they may be."""
        itemsize = max(1, np.dtype(self._array.dtype).itemsize)
        limit.check(math.prod(self._array.chunks) * itemsize, self._where, "a chunk")
        if shards := self._array.shards:
            chunks = [-(-shard // chunk) for shard, chunk in zip(shards, self._array.chunks, strict=True)]
            limit.check(math.prod(chunks) * _SHARD_ENTRY_BYTES, self._where, "the index of a shard")
        rows = min(self._block_rows, self._array.shape[0])
        block_bytes = rows * math.prod(self._array.shape[1:]) * itemsize
        limit.check(block_bytes, self._where, f"a block of {rows} rows, as many as a chunk has,")

    def read(self, start: int, stop: int) -> Array:
        """The rows `[start, stop)`."""
        size = self._block_rows
        first, last = start // size, max(start, stop - 1) // size
        parts = [self._block(i)[max(0, start - i * size) : max(0, stop - i * size)] for i in range(first, last + 1)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _block(self, index: int) -> Array:
        if self._kept is None or self._kept[0] != index:
            start = index * self._block_rows
            with one_line_errors(f"{self._where}: rows from {start}"):
                block = np.asarray(self._array[start : start + self._block_rows])
            self._kept = index, np.ascontiguousarray(block, dtype=taken_dtype(block.dtype))
        return self._kept[1]
