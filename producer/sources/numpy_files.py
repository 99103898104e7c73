"""NumPy files --> arrays; those of `.npy` and of uncompressed `.npz` files are mapped, not read."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from producer.rows.readers import SliceReader
from producer.rows.source import Splits
from producer.sources.arrays import ArraySource, array_source, stamp_of
from producer.sources.formats.split_source import SplitSource
from tasks.datasets.columns import columns_of, no_array, taken_dtype
from tasks.datasets.formats.npz import first_byte, is_as_given, is_plain, read_header
from tasks.datasets.input_limit import input_limit
from tasks.datasets.read_errors import check_file, one_line_errors
from tasks.datasets.rows import MAX_BATCH_BYTES
from tasks.protocol.codec import DTYPES, Array
from tasks.protocol.split_ref import FileSpan, SplitRef
from worker_config.errors import InputError, UsageError
from worker_config.files import escaped

_SUFFIXES = (".npy", ".npz")
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)


def open_file(path: str | Path, dtype: str | None = None, array: str | None = None) -> ArraySource | SliceReader:
    """Open an `.npy` file, memory-mapped, or an `.npz` file as a dict of its arrays, or one `array` of it.

    An `.npy` file of records is a dict of their fields.

    Arrays of an `.npz` file of more than 16 MiB are mapped where they were saved uncompressed (`np.savez`). All
    others are read into memory, and their checksum is looked at; mapped ones are trusted as those of `.npy` are.

    Args:
        path: the file.
        dtype: what arrays of raw bytes are, such as "bfloat16", whose name NumPy does not write into its files.

    Raises:
        InputError: the file cannot be used; the text names it, the cause, and what to do.
        UsageError: there is no such dtype.
    """
    path = Path(path)
    where = str(path)
    status = check_file(path, f"one {' or '.join(_SUFFIXES)} file")
    suffix = path.suffix.lower()
    if suffix not in _SUFFIXES:
        raise InputError(
            f"{where}: files of type {suffix or '(none)'!r} cannot be read; save as {' or '.join(_SUFFIXES)}"
        )
    if array is not None and suffix == ".npy":
        raise UsageError(f"{where}: is one array; leave out the name {array!r}")
    if status.st_size == 0:
        raise InputError(f"{where}: the file is empty (0 bytes); write it again with np.save or np.savez")
    raw = raw_dtype(dtype)
    with one_line_errors(where):
        data = _map_npy(path, 0, status.st_size, where, raw) if suffix == ".npy" else read_npz(path, where, raw, array)
    if raw is not None and raw not in {one.dtype for one in columns_of(data, where).values()}:
        raise InputError(f"{where}: holds no raw bytes of {raw.itemsize} each that could be {raw}; leave out the dtype")
    if isinstance(data, np.ndarray) and data.dtype.names and data.ndim == 1:
        whole = ArraySource(len(data), float(data.dtype.itemsize), path.name, {}, data, stamp=stamp_of(status))
        return records(whole, where)
    as_is = isinstance(data, np.memmap) and data.flags.c_contiguous and data.dtype == taken_dtype(data.dtype)
    as_is = as_is and escaped(where) == where  # a path that is no text does not travel
    source = array_source(data, path.name, where, path if as_is else None, stamp_of(status))
    return replace(source, splits=_splits(path, source, array)) if suffix == ".npz" else source


def _splits(path: Path, source: ArraySource, array: str | None) -> Splits | None:
    """The arrays of an `.npz` file, where all that are taken stand in it as they are given."""
    names = list(source.specs) if array is None else [array]
    with zipfile.ZipFile(path) as archive:
        members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
    stored = all(is_plain(members[name]) for name in names)
    arrays = columns_of(source.data, str(path)).values()
    if not stored or not all(is_as_given(one.dtype) and one.flags.c_contiguous for one in arrays):
        return None

    def opened() -> SplitSource:
        span = FileSpan(str(path), *(source.stamp or (0, 0)), 0, 0, source.rows)
        ref = SplitRef("npz", [span], [], {array: ""}) if array is not None else SplitRef("npz", [span], names)
        return SplitSource(source.label, source.row_bytes, ref, [0, source.rows])

    return Splits("npz", lambda: [str(path)], opened)


def raw_dtype(name: str | None) -> np.dtype[Any] | None:
    """The dtype of a name that NumPy's files do not know."""
    raw = {known: dtype for known, dtype in DTYPES.items() if dtype.isbuiltin == 2}
    if name is not None and name not in raw:
        raise UsageError(f"dtype is {name!r}, for raw bytes in a NumPy file; give one of {', '.join(raw)}")
    return None if name is None else raw[name]


def records(whole: ArraySource | SliceReader, where: str, names: Sequence[str] | None = None) -> SliceReader:
    """A column for each field of a structured array, or for those of these names, taken apart block by block."""

    def block(start: int, stop: int) -> ArraySource:
        rows = whole.take(start, stop)
        columns = array_source({name: rows[name] for name in rows.dtype.names}, whole.label, where)  # type: ignore[union-attr,index]
        return columns if names is None else columns.only(names)

    table = block(0, 0).table
    if table:
        table = replace(table, only=lambda chosen: records(whole, where, chosen))
    return SliceReader(
        whole.label,
        whole.rows,
        whole.row_bytes,
        lambda start, stop: block(start, stop).take_marked(0, stop - start, start),
        table=table,
    )


def read_npz(
    file: Path | BinaryIO, where: str, raw: np.dtype[Any] | None, only: str | None
) -> Array | dict[str, Array]:
    """The arrays of an `.npz`, or `only` one, in memory; of a path large ones are mapped where they stand as they are.

    Raises:
        InputError: there is no such array, or they are larger than what is read may be.
    """
    arrays: dict[str, Array] = {}
    unpacked_bytes, limit = 0, input_limit()
    with zipfile.ZipFile(file) as archive:
        members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
        if only is not None and only not in members:
            raise no_array(where, only, members)
        for name, member in members.items() if only is None else [(only, members[only])]:
            place = f"{where}: array {name!r}"
            if isinstance(file, Path) and is_plain(member) and member.file_size > MAX_BATCH_BYTES:
                with file.open("rb") as stream:
                    begin = first_byte(stream, member)
                arrays[name] = _map_npy(file, begin, member.file_size, place, raw)
            else:
                unpacked_bytes += member.file_size
                limit.check(unpacked_bytes, place, "what is compressed, up to this array,")
                array = _read_member(archive, member, place)
                arrays[name] = array.view(meant(array.dtype, raw))
    return arrays if only is None else arrays[only]


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, where: str) -> Array:
    if member.compress_type not in _COMPRESSIONS:  # that of LZMA takes as much memory as it says
        raise InputError(f"{where}: is compressed in a way that NumPy does not write; save it with np.savez_compressed")
    with archive.open(member) as stream:
        shape, _, dtype = read_header(stream, where)
        needed = stream.tell() + math.prod(shape) * dtype.itemsize
    check_size(member.file_size, needed, shape, where)
    with archive.open(member) as stream:
        array: Array = np.lib.format.read_array(stream, allow_pickle=False)
    return array


def _map_npy(path: Path, first_byte: int, size: int, where: str, raw: np.dtype[Any] | None) -> Array:
    """Map the array whose `.npy` form is the `size` bytes of the file from `first_byte` on."""
    with path.open("rb") as stream:
        stream.seek(first_byte)
        shape, fortran_order, dtype = read_header(stream, where)
        offset = stream.tell()
    dtype = meant(dtype, raw)
    needed = offset - first_byte + math.prod(shape) * dtype.itemsize
    check_size(size, needed, shape, where)
    if needed == offset - first_byte or not shape:  # nothing to map, or refused later
        return np.empty(shape, dtype)
    return np.memmap(path, dtype, "r", offset, shape, "F" if fortran_order else "C")


def meant(dtype: np.dtype[Any], raw: np.dtype[Any] | None) -> np.dtype[Any]:
    """What an array in a file is: that of `raw`, where it is raw bytes as long."""
    is_raw = raw is not None and dtype.kind == "V" and not dtype.names and dtype.itemsize == raw.itemsize
    return raw if raw is not None and is_raw else dtype


def check_size(size: int, needed: int, shape: tuple[int, ...], where: str) -> None:
    """Refuse an array that has fewer bytes than its header says, or a shape that takes none and cannot be meant."""
    if size < needed or min(shape, default=0) < 0:
        raise InputError(f"{where}: is cut short: {size} bytes of {needed}; copy or write it again")
    if shape and not math.prod(shape):
        input_limit().check(shape[0], where, f"an array of shape {shape}, of which each row is something,")
