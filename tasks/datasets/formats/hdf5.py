"""HDF5 datasets of one file --slabs of rows--> arrays by name.

A dataset whose values stand in another file is refused: what a worker opens is under its roots.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice, product
from typing import Any, BinaryIO

import msgspec
import numpy as np

from tasks.datasets.columns import taken_dtype
from tasks.datasets.formats.reader import FormatReader
from tasks.datasets.input_limit import input_limit
from tasks.datasets.rows import MAX_BATCH_BYTES, Batches
from tasks.protocol.codec import Array
from tasks.protocol.split_ref import FileSpan, SplitRef
from tasks.storage.object_file import fetch_ranges
from worker_config.errors import InputError
from worker_config.foreign_errors import import_optional

_MAX_DEPTH = 16
# Of which it is asked where they stand.
_MOST_CHUNKS = 1_000
# What most files say of their datasets is within these.
_HEAD_BYTES = 256 * 2**10


class Hdf5Rows(FormatReader):
    """Datasets of one file, by names such as "group/values"; one without columns is the array itself."""

    def __init__(self, file: BinaryIO, ref: SplitRef, where: str, threads: bool) -> None:
        self._file = file
        self._opened = h5py_file(file)
        known = datasets_of(self._opened, where)
        self._arrays = {name: known[name] for name in (ref.columns or list(ref.kinds))}
        self._is_one = not ref.columns
        row_bytes = sum(math.prod(one.shape[1:]) * max(1, one.dtype.itemsize) for one in self._arrays.values())
        limit = input_limit()
        limit.check(row_bytes, where, "a row")
        for name, one in self._arrays.items():
            chunk_bytes = math.prod(one.chunks or (0,)) * max(1, one.dtype.itemsize)
            limit.check(chunk_bytes, where, f"a chunk of {name!r}")
        self._rows = max(1, MAX_BATCH_BYTES // max(1, row_bytes))
        self._end = min((one.shape[0] for one in self._arrays.values() if one.shape), default=0)

    def batches(self, span: FileSpan) -> Batches:
        """Rows from the span's first one on."""
        last = min(span.stop, self._end)
        for start in range(span.start, max(last, span.start + 1), self._rows):
            stop = min(start + self._rows, last)
            fetch_ranges(self._file, self.ranges(msgspec.structs.replace(span, start=start, stop=stop)))
            columns = {name: _values(one, start, stop) for name, one in self._arrays.items()}
            yield next(iter(columns.values())) if self._is_one else columns

    def ranges(self, span: FileSpan) -> Iterator[tuple[int, int]]:
        """The rows of the datasets, or the chunks that have them."""
        return (one for dataset in self._arrays.values() for one in _ranges(dataset, span.start, span.stop))

    def close(self) -> None:
        """Let go of what h5py has of the file."""
        self._opened.close()


def _ranges(dataset: Any, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Where rows of a dataset stand in the file, chunk by chunk."""
    if dataset.chunks is None:
        begin, row_bytes = dataset.id.get_offset(), math.prod(dataset.shape[1:]) * dataset.dtype.itemsize
        if begin is not None:
            yield begin + start * row_bytes, begin + stop * row_bytes
        return
    first = range(start - start % dataset.chunks[0], stop, dataset.chunks[0])
    others = [range(0, size, step) for size, step in zip(dataset.shape[1:], dataset.chunks[1:], strict=True)]
    for place in islice(product(first, *others), _MOST_CHUNKS):
        found = dataset.id.get_chunk_info_by_coord(place)
        if found.byte_offset is not None:
            yield found.byte_offset, found.byte_offset + found.size


def h5py_file(file: BinaryIO) -> Any:
    """h5py's file of an open one."""
    fetch_ranges(file, [(0, _HEAD_BYTES)])  # which the library reads in several overlapping pieces
    return import_optional("h5py", "hdf5").File(file, "r")


def datasets_of(opened: Any, where: str) -> dict[str, Any]:
    """The datasets of an open file by name, those of groups in groups too; what leads into other files is refused."""
    h5py = import_optional("h5py", "hdf5")
    found: dict[str, Any] = {}

    def walk(group: Any, before: str, depth: int) -> None:
        for name in group if depth < _MAX_DEPTH else ():
            link, place = group.get(name, getlink=True), f"{before}{name}"
            if isinstance(link, h5py.ExternalLink):
                raise InputError(f"{where}: {place!r} is a link into another file; copy what it leads to into this one")
            if isinstance(link, h5py.SoftLink):
                continue  # another name of what is here, or of nothing
            one = group[name]
            if isinstance(one, h5py.Group):
                walk(one, f"{place}/", depth + 1)
            elif isinstance(one, h5py.Dataset):
                if one.external or one.is_virtual:
                    raise InputError(f"{where}: the values of {place!r} stand in other files; copy them into this one")
                found[place] = one

    walk(opened, "", 0)
    return found


def _values(dataset: Any, start: int, stop: int) -> Array:
    h5py = import_optional("h5py", "hdf5")
    text = h5py.check_string_dtype(dataset.dtype)
    rows = dataset.asstr()[start:stop] if text and text.encoding == "utf-8" else dataset[start:stop]
    return np.ascontiguousarray(rows, dtype=object if text else taken_dtype(dataset.dtype))
