"""Zarr arrays of one store --whole chunks, each one once--> rows.

A worker opens the store's files one by one under its roots; the span's own file is that of the store's metadata.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import PurePosixPath
from typing import Any, BinaryIO

import numpy as np

from tasks.datasets.columns import place, row_bytes, taken_dtype
from tasks.datasets.formats.reader import FormatReader
from tasks.datasets.input_limit import InputLimit, input_limit
from tasks.datasets.open_file import Opener
from tasks.datasets.read_errors import one_line_errors
from tasks.datasets.rows import MAX_BATCH_BYTES, Batches
from tasks.protocol.codec import Array
from tasks.protocol.split_ref import FileSpan, SplitRef
from tasks.storage.background import begin
from worker_config.errors import InputError
from worker_config.foreign_errors import import_optional
from worker_config.object_urls import is_url

# Where a chunk stands in a shard, and how long it is.
_SHARD_ENTRY_BYTES = 16
# What a store tells that nobody lists.
_NO_KEYS: tuple[str, ...] = ()


def format_of(span: FileSpan) -> int:
    """The version of Zarr by the name of a store's metadata: who knows it asks for no files of the other."""
    return 3 if span.path.endswith("zarr.json") else 2


class ZarrRows(FormatReader):
    """Arrays by name, or one array, with the rows on their first axis; the open file is their store's metadata."""

    def __init__(self, file: BinaryIO, ref: SplitRef, span: FileSpan, opener: Opener) -> None:
        zarr = import_optional("zarr", "zarr")
        store, where = store_beside(opener, span), span.path.rpartition("/")[0]
        self._is_one, kind = not ref.columns, format_of(span)
        arrays = {
            name: zarr.open_array(store, path=name, mode="r", zarr_format=kind)
            for name in ref.columns or list(ref.kinds)
        }
        self._blocks = {
            name: ArrayBlocks(array, where if self._is_one else place(where, name)) for name, array in arrays.items()
        }
        self._chunk_rows: int = max(blocks.chunk_rows for blocks in self._blocks.values())
        self._ahead: dict[tuple[int, int], Future[dict[str, Array]]] = {}

    def anchor(self, span: FileSpan) -> int:
        """The first row of the chunk that has the span's first row."""
        return span.start // self._chunk_rows * self._chunk_rows

    def batches(self, span: FileSpan) -> Batches:
        """Rows from the anchor on, whole chunks at a time."""
        for start, stop in self._steps(span):
            ahead = self._ahead.pop((start, stop), None)
            # What could not be read ahead is read now, and whoever asks is told.
            is_there = ahead is not None and not ahead.cancel() and ahead.exception() is None
            columns = ahead.result() if ahead and is_there else self._columns(start, stop)
            yield next(iter(columns.values())) if self._is_one else columns

    def read_ahead(self, span: FileSpan) -> None:
        """Begin to read what the span begins with, in place of what was begun before."""
        step = next(iter(self._steps(span)))
        self._ahead = {step: self._ahead.get(step) or begin(partial(self._columns, *step))}

    def _columns(self, start: int, stop: int) -> dict[str, Array]:
        return {name: blocks.read(start, stop) for name, blocks in self._blocks.items()}

    def _steps(self, span: FileSpan) -> Iterator[tuple[int, int]]:
        anchor = self.anchor(span)
        last = min(span.stop, *(blocks.rows for blocks in self._blocks.values()))
        wanted = -(-(last - anchor) // self._chunk_rows)
        row_bytes = sum(blocks.row_bytes for blocks in self._blocks.values())
        most = int(MAX_BATCH_BYTES // max(1.0, row_bytes * self._chunk_rows))
        rows = self._chunk_rows * max(1, min(wanted, most))
        for start in range(anchor, max(last, anchor + 1), rows):
            yield start, start + rows

    def close(self) -> None:
        """Nothing stays open; what was begun is of no use."""
        self._ahead = {}


class ArrayBlocks:
    """One array, of which whole chunks are read.

    Attributes:
        rows: how many there are.
        chunk_rows: rows that are unpacked together.
        row_bytes: of one row in memory.
    """

    def __init__(self, array: Any, where: str) -> None:
        self._array, self._where = array, where
        self.rows: int = array.shape[0]
        self.chunk_rows = max(1, array.chunks[0])
        self._check(input_limit())
        if taken_dtype(np.dtype(array.dtype)).hasobject:
            self.row_bytes = row_bytes(self.read(0, self.chunk_rows))  # strings tell their size when they are read
        else:
            self.row_bytes = float(math.prod(array.shape[1:]) * np.dtype(array.dtype).itemsize)

    def read(self, start: int, stop: int) -> Array:
        """Rows of the array, as far as it has them."""
        with one_line_errors(f"{self._where}: rows from {start}"):
            block = np.asarray(self._array[start : min(stop, self.rows)])
        return np.ascontiguousarray(block, dtype=taken_dtype(block.dtype))

    def _check(self, limit: InputLimit) -> None:
        """Refuse chunks, or rows of whole chunks, that are larger in memory than they may be."""
        itemsize = max(1, np.dtype(self._array.dtype).itemsize)
        limit.check(math.prod(self._array.chunks) * itemsize, self._where, "a chunk")
        if shards := self._array.shards:
            chunks = [-(-shard // chunk) for shard, chunk in zip(shards, self._array.chunks, strict=True)]
            limit.check(math.prod(chunks) * _SHARD_ENTRY_BYTES, self._where, "the index of a shard")
        rows = min(self.chunk_rows, self._array.shape[0])
        block_bytes = rows * math.prod(self._array.shape[1:]) * itemsize
        limit.check(block_bytes, self._where, f"a block of {rows} rows, as many as a chunk has,")


def store_beside(opener: Opener, span: FileSpan) -> Any:
    """The store of the files or objects beside a span's own, to be read alone; of objects it lists its groups."""
    base: Any = import_optional("zarr.abc.store", "zarr").Store
    is_object = is_url(span.path)

    class Beside(base):  # type: ignore[misc]
        supports_writes = supports_deletes = False
        supports_listing = is_object

        def __eq__(self, other: object) -> bool:
            return self is other

        __hash__ = object.__hash__

        async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Any:
            if ".." in PurePosixPath(key).parts or key.startswith("/"):
                raise InputError(f"{span.path}: names a file outside of its folder: {key!r}")
            read = partial(opener.read_beside, span, key, *_bounds(byte_range))
            data = await asyncio.wrap_future(begin(read)) if is_object else read()
            default = import_optional("zarr.core.buffer", "zarr").default_buffer_prototype
            return None if data is None else (prototype or default()).buffer.from_bytes(data)

        async def get_partial_values(self, prototype: Any, key_ranges: Any) -> list[Any]:
            return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

        async def exists(self, key: str) -> bool:
            return await self.get(key) is not None

        async def set(self, key: str, value: Any) -> None:
            raise NotImplementedError

        async def delete(self, key: str) -> None:
            raise NotImplementedError

        async def list(self) -> AsyncIterator[str]:
            for key in _NO_KEYS:
                yield key

        async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
            for key in _NO_KEYS:
                yield key

        async def list_dir(self, prefix: str) -> AsyncIterator[str]:
            for key in opener.names_beside(span, prefix) if is_object else _NO_KEYS:
                yield key

    return Beside(read_only=True)


def _bounds(byte_range: Any) -> tuple[int, int | None]:
    """Which bytes of a file are asked for; of its last ones how many, as a negative number."""
    if byte_range is None:
        return 0, None
    if hasattr(byte_range, "suffix"):
        return -byte_range.suffix, None
    return (byte_range.start, byte_range.end) if hasattr(byte_range, "end") else (byte_range.offset, None)
