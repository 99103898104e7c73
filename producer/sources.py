"""This module opens a data set, from memory or from a NumPy file, as rows that can be taken by slices."""

from __future__ import annotations

import math
import stat
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from producer.aggregator import Array, RowSpec
from worker_config.errors import InputError

_SUFFIXES = (".npy", ".npz")
_NPY_MAGIC = b"\x93NUMPY"

# Strings differ in length: this many of them, spread over the array, tell how long they are.
_SAMPLED_STRINGS = 256


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A data set: one array, arrays by name, or a tuple of arrays in the order of the model's inputs.

    Attributes:
        rows: length of the first axis of every array.
        row_bytes: average bytes of one row, all arrays together; for strings an estimate.
        label: the data set for people.
        specs: dtype and row shape of what `take` gives, by input name; "" for one array, "0", "1", ... for a tuple.
        data: the arrays as they are kept; those of an `.npy` file are memory-mapped.
        path: the `.npy` file whose own bytes are what `take` gives, so that who can open the file needs no copy of
            the rows; None where there is no such file.
    """

    rows: int
    row_bytes: float
    label: str
    specs: dict[str, RowSpec]
    data: Array | dict[str, Array] | tuple[Array, ...]
    path: Path | None = None

    def take(self, start: int, stop: int) -> Array | dict[str, Array] | tuple[Array, ...]:
        """Give the rows `[start, stop)` in the form of `data`.

        Arrays are in C order and native byte order: views where the data is so already, copies of these rows
        otherwise. Text of fixed width (dtype U or S) comes as an object array of str or bytes.

        Raises:
            InputError: the data set has no such rows.
        """
        if not 0 <= start <= stop <= self.rows:
            raise InputError(f"{self.label}: no rows {start}-{stop}, there are {self.rows}")

        def rows_of(array: Array) -> Array:
            return np.ascontiguousarray(array[start:stop], dtype=_taken_dtype(array.dtype))

        if isinstance(self.data, dict):
            return {name: rows_of(array) for name, array in self.data.items()}
        if isinstance(self.data, tuple):
            return tuple(rows_of(array) for array in self.data)
        return rows_of(self.data)


def from_arrays(data: object) -> Source:
    """Make a data set of what is in memory; arrays are not copied.

    Args:
        data: an array, anything that NumPy can make one of (`__array__`, a list of numbers or strings), a dict of
            such by input name, or a tuple of such in the order of the model's inputs.

    Raises:
        InputError: not an array, ragged, without a first axis, of a dtype that no model takes, or with different
            numbers of rows.
    """
    arrays: Array | dict[str, Array] | tuple[Array, ...]
    if isinstance(data, Mapping):
        if odd := [name for name in data if not isinstance(name, str)]:
            raise InputError(f"the data set: input names must be strings, {odd[0]!r} is none")
        arrays = {name: _as_array(value, f"input {name!r}") for name, value in data.items()}
    elif isinstance(data, tuple):
        arrays = tuple(_as_array(value, f"input {position}") for position, value in enumerate(data))
    else:
        arrays = _as_array(data, "the data set")
    return _source(arrays, _describe(arrays), where="the data set")


def open_file(path: str | Path) -> Source:
    """Open an `.npy` file, memory-mapped, or read an `.npz` file as a dict of its arrays.

    Raises:
        InputError: the file cannot be used; the text names it, the cause, and what to do.
    """
    path = Path(path)
    where = str(path)
    try:
        status = path.stat()
    except FileNotFoundError:
        raise InputError(f"{where}: no such file; check the path") from None
    except (OSError, ValueError) as error:
        raise _unreadable(where, error) from error
    if stat.S_ISDIR(status.st_mode):
        raise InputError(f"{where}: is a folder; name one {' or '.join(_SUFFIXES)} file in it")
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{where}: is not a regular file; copy the data to one first")
    suffix = path.suffix.lower()
    if suffix not in _SUFFIXES:
        raise InputError(
            f"{where}: files of type {suffix or '(none)'!r} cannot be read; save as {' or '.join(_SUFFIXES)}"
        )
    if status.st_size == 0:
        raise InputError(f"{where}: the file is empty (0 bytes); write it again with np.save or np.savez")
    if suffix == ".npy":
        with _one_line_errors(where):
            array = _map_npy(path, status.st_size)
        as_is = isinstance(array, np.memmap) and array.flags.c_contiguous and array.dtype == _taken_dtype(array.dtype)
        return _source(array, path.name, where, path if as_is else None)
    with _one_line_errors(where):
        arrays = _read_npz(path)
    return _source(arrays, path.name, where)


def _map_npy(path: Path, size: int) -> Array:
    with path.open("rb") as stream:
        shape, fortran_order, dtype = _read_header(stream, str(path))
        offset = stream.tell()
    order: Any = "F" if fortran_order else "C"
    needed = offset + math.prod(shape) * dtype.itemsize
    if size < needed:
        raise InputError(f"{path}: is cut short: {size} bytes of {needed}; copy or write it again")
    if needed == offset or not shape:  # nothing to map, or refused later
        return np.empty(shape, dtype)
    return np.memmap(path, dtype, "r", offset, shape, order)


def _read_npz(path: Path) -> dict[str, Array]:
    arrays: dict[str, Array] = {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            where = f"{path}: array {name.removesuffix('.npy')!r}"
            with archive.open(name) as stream:
                _read_header(stream, where)
            with archive.open(name) as stream:
                arrays[name.removesuffix(".npy")] = np.lib.format.read_array(stream, allow_pickle=False)
    return arrays


def _read_header(stream: IO[bytes], where: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read up to the first byte of the array; gives shape, Fortran order and dtype."""
    magic = stream.read(len(_NPY_MAGIC))
    if magic != _NPY_MAGIC:
        raise InputError(f"{where}: is not a NumPy array, whatever its name says; write it with np.save or np.savez")
    version = tuple(stream.read(2))
    if version == (1, 0):
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(stream)
    elif version in (
        (2, 0),
        (3, 0),
    ):  # version 3 differs from 2 only in the names of structured dtypes, which are refused
        shape, fortran_order, dtype = np.lib.format.read_array_header_2_0(stream)
    else:
        raise ValueError("unknown format version")
    if dtype.hasobject:
        raise InputError(f"{where}: holds pickled Python objects; save it as a numeric or string array")
    return shape, fortran_order, dtype


def _source(
    data: Array | dict[str, Array] | tuple[Array, ...], label: str, where: str, path: Path | None = None
) -> Source:
    """Check the arrays against each other and make the data set of them."""
    arrays = _by_name(data)
    if not arrays:
        raise InputError(f"{where}: holds no arrays; give at least one")
    for name, array in arrays.items():
        _check_rows(array, f"{where}: input {name!r}" if name else where)
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        named = ", ".join(f"{name!r} has {rows}" for name, rows in lengths.items())
        raise InputError(f"{where}: all inputs must have the same number of rows, but {named}")
    specs = {name: RowSpec(_taken_dtype(array.dtype), array.shape[1:]) for name, array in arrays.items()}
    row_bytes = sum(math.prod(array.shape[1:]) * _value_bytes(array) for array in arrays.values())
    return Source(next(iter(lengths.values())), row_bytes, label, specs, data, path)


def _by_name(data: Array | dict[str, Array] | tuple[Array, ...]) -> dict[str, Array]:
    if isinstance(data, dict):
        return data
    if isinstance(data, tuple):
        return {str(position): array for position, array in enumerate(data)}
    return {"": data}


def _check_rows(array: Array, where: str) -> None:
    if array.ndim == 0:
        raise InputError(f"{where}: is one value, not rows; give an array whose first axis counts the rows")
    if issubclass(array.dtype.type, np.void):
        raise InputError(
            f"{where}: its dtype {array.dtype} is structured or raw bytes; save each field as a plain numeric array"
        )
    if array.dtype.kind in "mM":
        raise InputError(f"{where}: its dtype {array.dtype} is a time, which no model takes; convert it to numbers")


def _as_array(value: object, where: str) -> Array:
    if np.ma.is_masked(value):
        raise InputError(f"{where}: has masked values; fill them first, with .filled(value)")
    try:
        array = np.asarray(value)
    except Exception as error:  # `__array__` of foreign types raises whatever it likes
        raise InputError(f"{where}: cannot become an array: {_cause(error)}") from error
    if array.ndim == 0:
        raise InputError(
            f"{where}: is one {type(value).__name__}, not rows; give an array whose first axis counts the rows "
            "(a tuple means several inputs)"
        )
    return array


def _taken_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """What `take` gives for an array of this dtype."""
    return np.dtype(object) if dtype.kind in "UST" else dtype.newbyteorder("=")


def _value_bytes(array: Array) -> float:
    """Average bytes of one value."""
    if not array.dtype.hasobject or array.size == 0:
        return array.dtype.itemsize
    sample = array.flat[:: max(1, array.size // _SAMPLED_STRINGS)]
    return sum(len(value) if isinstance(value, (str, bytes)) else array.itemsize for value in sample) / len(sample)


def _describe(data: Array | dict[str, Array] | tuple[Array, ...]) -> str:
    if isinstance(data, np.ndarray):
        return f"array {data.shape} {data.dtype}"
    return ", ".join(f"{name} {array.shape} {array.dtype}" for name, array in _by_name(data).items())


@contextmanager
def _one_line_errors(where: str) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # of a damaged file, readers raise almost anything
        raise _unreadable(where, error) from error


def _unreadable(where: str, error: Exception) -> InputError:
    if isinstance(error, PermissionError):
        return InputError(f"{where}: may not be read by this user; change its mode or its owner")
    if isinstance(error, OSError):
        return InputError(f"{where}: cannot be read: {error.strerror or _cause(error)}; check the path")
    if isinstance(error, MemoryError):
        return InputError(f"{where}: does not fit in memory: {_cause(error)}; save it as .npy, which is read in slices")
    return InputError(f"{where}: is damaged or cut short: {_cause(error)}; copy or write it again")


def _cause(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
