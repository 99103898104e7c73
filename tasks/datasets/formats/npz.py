"""Arrays in an `.npz` file that stand there as they are --where each begins--> rows by name."""

from __future__ import annotations

import io
import math
import os
import struct
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any, BinaryIO

import numpy as np

from tasks.datasets.formats.reader import FormatReader
from tasks.datasets.input_limit import input_limit
from tasks.datasets.rows import MAX_BATCH_BYTES, Batches
from tasks.protocol.codec import Array, dtype_name
from tasks.protocol.split_ref import FileSpan, SplitRef
from tasks.storage.object_file import fetch_ranges
from worker_config.errors import InputError

_NPY_MAGIC = b"\x93NUMPY"
# NumPy reads no longer one.
_MAX_HEADER_BYTES = 10_000
# What stands before a member of a zip file: fixed fields, of which the last two are the lengths of the name and of
# the extra field that follow.
_MEMBER_HEADER = struct.Struct("<26xHH")
_ENCRYPTED = 1
# Of most files where members stand, at the end; and what is before the values of one. More is read when it is needed.
_DIRECTORY_BYTES, _HEADERS_BYTES = 64 * 2**10, 1_024


@dataclass(frozen=True)
class Stored:
    """An array in a file that stands there as it is: where its first byte is, and what a row of it is."""

    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        """Of one row."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    def bytes_of(self, start: int, stop: int) -> tuple[int, int]:
        """Where the rows `[start, stop)` stand."""
        return self.offset + start * self.row_bytes, self.offset + stop * self.row_bytes

    def read(self, file: BinaryIO, start: int, stop: int, where: str) -> Array:
        """The rows `[start, stop)`."""
        file.seek(self.offset + start * self.row_bytes)
        data = file.read((stop - start) * self.row_bytes)
        if len(data) < (stop - start) * self.row_bytes:
            raise InputError(f"{where}: is cut short: rows {start}-{stop} are not all there; copy or write it again")
        return np.frombuffer(data, self.dtype).reshape((stop - start, *self.shape[1:]))


class NpzRows(FormatReader):
    """Arrays by name, or one of them."""

    def __init__(self, file: BinaryIO, ref: SplitRef, where: str, threads: bool) -> None:
        self._file, self._where, self._is_one = file, where, not ref.columns
        names = ref.columns or list(ref.kinds)
        found = stored_arrays(file, where, names)
        self._arrays = {name: found[name] for name in names}

    def batches(self, span: FileSpan) -> Batches:
        """The rows of the span, some MiB at a time."""
        row_bytes = sum(one.row_bytes for one in self._arrays.values())
        input_limit().check(row_bytes, self._where, "a row")
        rows = max(1, MAX_BATCH_BYTES // max(1, row_bytes))
        for start in range(span.start, max(span.stop, span.start + 1), rows):
            stop = min(start + rows, span.stop)
            fetch_ranges(self._file, [one.bytes_of(start, stop) for one in self._arrays.values()])
            columns = {name: one.read(self._file, start, stop, self._where) for name, one in self._arrays.items()}
            yield next(iter(columns.values())) if self._is_one else columns

    def ranges(self, span: FileSpan) -> list[tuple[int, int]]:
        """The rows of each array."""
        return [one.bytes_of(span.start, span.stop) for one in self._arrays.values()]


def stored_arrays(file: BinaryIO, where: str, names: Sequence[str] | None = None) -> dict[str, Stored]:
    """The arrays of a file, or those of these names.

    Raises:
        InputError: one of them is not there, is compressed, or has no row in one piece.
    """
    end = file.seek(0, os.SEEK_END)
    fetch_ranges(file, [(end - _DIRECTORY_BYTES, end)])
    with zipfile.ZipFile(file) as archive:
        members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
    wanted = list(members if names is None else names)
    starts = [members[name].header_offset for name in wanted if name in members]
    fetch_ranges(file, [(start, start + _HEADERS_BYTES) for start in starts])
    return {name: _stored(file, where, members, name) for name in wanted}


def _stored(file: BinaryIO, where: str, members: dict[str, zipfile.ZipInfo], name: str) -> Stored:
    if name not in members or not is_plain(members[name]):
        raise InputError(f"{where}: has no array {name!r} that stands in it as it is; write it with np.savez")
    file.seek(first_byte(file, members[name]))
    shape, fortran_order, dtype = read_header(file, f"{where}: array {name!r}")
    if fortran_order and len(shape) > 1:
        raise InputError(f"{where}: the rows of array {name!r} are in several pieces; write it in C order")
    return Stored(file.tell(), dtype, shape)


def is_as_given(dtype: np.dtype[Any]) -> bool:
    """Whether values are given as they stand in a file, unlike truth values, which may be neither 0 nor 1 there."""
    return dtype_name(dtype) not in (None, "bool") and dtype == dtype.newbyteorder("<") and dtype.isbuiltin != 2


def is_plain(member: zipfile.ZipInfo) -> bool:
    """Whether a member of a zip file stands in it as it is."""
    return member.compress_type == zipfile.ZIP_STORED and not member.flag_bits & _ENCRYPTED


def first_byte(stream: IO[bytes], member: zipfile.ZipInfo) -> int:
    """Where in the file the bytes of a stored member begin."""
    stream.seek(member.header_offset)
    name_length, extra_length = _MEMBER_HEADER.unpack(stream.read(_MEMBER_HEADER.size))
    return member.header_offset + _MEMBER_HEADER.size + int(name_length) + int(extra_length)


def read_header(stream: IO[bytes], where: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read up to the first byte of the array; gives shape, Fortran order and dtype."""
    magic = stream.read(len(_NPY_MAGIC))
    if magic != _NPY_MAGIC:
        raise InputError(f"{where}: is not a NumPy array, whatever its name says; write it with np.save or np.savez")
    version = tuple(stream.read(2))
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError("unknown format version")
    head = stream.read(2 if version == (1, 0) else 4)
    length = int.from_bytes(head, "little")
    if length > _MAX_HEADER_BYTES:
        raise ValueError(f"a header of {length} bytes, which no array needs")
    header = io.BytesIO(head + stream.read(length))
    if version == (1, 0):
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(header)
    else:  # 3 differs from 2 only in the names of structured dtypes, which are refused
        shape, fortran_order, dtype = np.lib.format.read_array_header_2_0(header)
    if dtype.hasobject:
        raise InputError(f"{where}: holds pickled Python objects; save it as a numeric or string array")
    return shape, fortran_order, dtype
