"""NumPy objects behind URLs --their headers--> rows, which are read by their ranges, here or by workers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO

import msgspec
import numpy as np

from producer.rows.readers import SliceReader
from producer.rows.source import Table
from producer.sources.arrays import ArraySource, array_source
from producer.sources.files import find_data, span_of
from producer.sources.formats.split_source import SplitSource
from producer.sources.numpy_files import check_size, meant, raw_dtype, read_npz, records
from tasks.datasets.columns import check_lengths, missing_column
from tasks.datasets.formats.npz import Stored, is_as_given, read_header, stored_arrays
from tasks.datasets.input_limit import input_limit
from tasks.datasets.open_file import Opener
from tasks.datasets.read_errors import one_line_errors
from tasks.datasets.rows import Rows
from tasks.protocol.codec import Array
from tasks.protocol.split_ref import SplitRef
from tasks.storage.object_list import ObjectPath
from tasks.storage.object_paths import find_objects
from tasks.storage.objects import read_range
from worker_config.errors import InputError


class ObjectArray(SliceReader):
    """See `Source`.

    Attributes:
        object: which, as it was when it was opened.
        dtype, row_shape: of its rows.
        offset: the byte with which they begin.
    """

    object: ObjectPath
    dtype: np.dtype[Any]
    row_shape: tuple[int, ...]
    offset: int

    def __init__(
        self,
        found: ObjectPath,
        dtype: np.dtype[Any],
        shape: tuple[int, ...],
        offset: int,
        read: Callable[[int, int], Array],
    ) -> None:
        self.object, self.dtype, self.row_shape, self.offset = found, dtype, shape[1:], offset
        checked = array_source(np.empty((0, *self.row_shape), dtype), found.name, str(found))
        row_bytes = checked.row_bytes or float(math.prod(self.row_shape) * dtype.itemsize)

        def rows(start: int, stop: int) -> Rows:
            return array_source(read(start, stop), self.label, str(found)).take_marked(0, stop - start, start)

        super().__init__(found.name, shape[0], row_bytes, rows)


def open_object_array(url: str, dtype: str | None = None) -> SliceReader:
    """Open an `.npy` object; `dtype`, and what is raised, are as of `open_file`."""
    raw = raw_dtype(dtype)
    [found] = find_objects(url)
    where = str(found)
    if found.stamp.size == 0:
        raise InputError(f"{where}: the object is empty (0 bytes); write it again with np.save")
    with one_line_errors(where), found.open() as stream:
        shape, fortran_order, kind = read_header(stream, where)
        offset = stream.tell()
    kind = meant(kind, raw)
    check_size(found.stamp.size, offset + math.prod(shape) * kind.itemsize, shape, where)
    if not shape:
        raise InputError(f"{where}: is one value and no array of rows; save an array")
    if fortran_order and len(shape) > 1:
        raise InputError(f"{where}: is in Fortran order, so no row is in one piece; save np.ascontiguousarray of it")
    row_bytes = math.prod(shape[1:]) * kind.itemsize
    if shape[0]:
        input_limit().check(row_bytes, where, "a row")

    def read(start: int, stop: int) -> Array:
        data = read_range(found.url, found.stamp, offset + start * row_bytes, offset + stop * row_bytes)
        return np.frombuffer(data, kind).reshape((stop - start, *shape[1:]))

    if kind.names and len(shape) == 1:
        return records(SliceReader(found.name, shape[0], float(row_bytes), read), where)
    return ObjectArray(found, kind, shape, offset, read)


def open_object_npz(url: str, dtype: str | None = None, array: str | None = None) -> ArraySource | SplitSource:
    """Open the arrays of an `.npz` object by name, or one `array` of them; `dtype` and errors are as of `open_file`.

    Where all that are taken stand in it as they are given, they are read row by row; else all are read into memory.
    """
    raw = raw_dtype(dtype)
    [found] = find_data(url, ".npz")
    where, file = str(found), span_of(found)
    with one_line_errors(where), Opener().open(file) as stream:
        arrays = {} if raw is not None else _stored(stream, where, array)
        if not arrays:
            data = read_npz(stream, where, raw, array)
    if not arrays:
        return array_source(data, found.name, where)

    def reader(names: Sequence[str]) -> SplitSource:
        for name in names:
            if name not in arrays:
                raise missing_column(where, name, arrays)
        rows = check_lengths({name: arrays[name].shape[0] for name in names}, where)
        span = msgspec.structs.replace(file, stop=rows)
        ref = SplitRef("npz", [span], [], {array: ""}) if array is not None else SplitRef("npz", [span], list(names))
        row_bytes = sum(arrays[name].row_bytes for name in names)
        table = Table(names, reader) if array is None else None
        return SplitSource(found.name, row_bytes, ref, [0, rows], table=table)

    return reader(list(arrays))


def _stored(stream: BinaryIO, where: str, array: str | None) -> dict[str, Stored]:
    """The arrays that are asked for; none of them where one is to be looked at, or has no row in one piece."""
    try:
        arrays = stored_arrays(stream, where, None if array is None else [array])
    except InputError:
        return {}
    return arrays if all(one.shape and is_as_given(one.dtype) for one in arrays.values()) else {}
