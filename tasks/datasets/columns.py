"""The rules for the arrays of a data set: what can become one, which dtypes, and their names."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import numpy as np

from tasks.protocol.codec import Array
from worker_config.errors import InputError
from worker_config.foreign_errors import one_line, some_of

# Strings differ in length: this many of them, spread over the array, tell how long they are.
_SAMPLED_STRINGS = 256
# From here on there are integers that no float holds.
FLOAT_GAPS = 2**53
# Columns, in an error's text.
MOST_NAMED = 20


def columns_of(tree: object, where: str) -> dict[str, Any]:
    """The values of a tree by name: "" for a single one, "0", "1", ... for a tuple.

    Raises:
        InputError: it has no values, or a name that is no string.
    """
    if isinstance(tree, tuple):
        columns = {str(position): value for position, value in enumerate(tree)}
    elif isinstance(tree, Mapping):
        if odd := [name for name in tree if not isinstance(name, str)]:
            raise InputError(f"{where}: input names must be strings, {odd[0]!r} is none")
        columns = dict(tree)
    else:
        return {"": tree}
    if not columns:
        raise InputError(f"{where}: holds no arrays; give at least one")
    return columns


def place(where: str, name: str) -> str:
    """Where a column is, for messages."""
    return f"{where}: input {name!r}" if name else where


def to_array(value: object, where: str) -> Array:
    """What NumPy makes of a value, which is not copied; in lists text, and integers that would change, become objects.

    Raises:
        InputError: nothing, or values that are masked.
    """
    if np.ma.is_masked(value):
        raise InputError(f"{where}: has masked values; fill them first, with .filled(value)")
    try:
        if not _is_text(value):
            by_dlpack = hasattr(value, "__dlpack__") and not hasattr(value, "__array__")
            array = np.from_dlpack(cast("Any", value)) if by_dlpack else np.asarray(value)
            if not (isinstance(value, list) and array.dtype.kind == "f" and (np.abs(array) >= FLOAT_GAPS).any()):
                return array
            objects = np.asarray(value, dtype=object)
            changed = any(isinstance(one, int) and one != float(one) for one in objects.flat)
            return objects if changed else array
        array = np.asarray(value, dtype=object)
    except Exception as error:  # `__array__` of foreign types raises whatever it likes
        raise InputError(f"{where}: cannot become an array: {one_line(error)}") from error
    check_text(array, where, (str, bytes, type(None)))
    return array


def _is_text(value: object) -> bool:
    while isinstance(value, list) and value:
        value = value[0]
    return isinstance(value, str | bytes)


def check_text(array: Array, where: str, held: tuple[type, ...] = (str, bytes)) -> None:
    """Refuse an object array that holds anything but str and bytes, or what may be `held` besides."""
    if array.dtype.hasobject and (odd := [value for value in array.flat if not isinstance(value, held)]):
        raise InputError(f"{where}: holds a {type(odd[0]).__name__}; give numbers, or nothing but str and bytes")


def check_rows(dtype: np.dtype[Any], dimensions: int, where: str) -> None:
    """Refuse an array that is no rows, or of a dtype that no model takes."""
    if dimensions == 0:
        raise InputError(f"{where}: is one value, not rows; give an array whose first axis counts the rows")
    check_dtype(dtype, where)


def is_taken(dtype: np.dtype[Any]) -> bool:
    """Whether some model takes such values, as far as NumPy knows."""
    return not (issubclass(dtype.type, np.void) or dtype.kind in "mM")


def check_dtype(dtype: np.dtype[Any], where: str) -> None:
    """Refuse a dtype that no model takes."""
    if issubclass(dtype.type, np.void) and not dtype.names:
        raise InputError(
            f"{where}: its dtype {dtype} is raw bytes, as which NumPy reads bfloat16 and the like; say which one it is "
            "(--dtype bfloat16), or save it as float32"
        )
    if issubclass(dtype.type, np.void):
        raise InputError(f"{where}: its dtype {dtype} is structured; save each field as a plain numeric array")
    if dtype.kind in "mM":
        raise InputError(f"{where}: its dtype {dtype} is a time, which no model takes; convert it to numbers")


def text_of_times(times: Array) -> Array:
    """Dates and times as ISO 8601 has them, such as 2024-05-01T12:00:00; that of NaT is "NaT".

    Fractions of a second have no zeros at their end, so that a time has one text, whatever the unit of its column.
    """
    texts = np.datetime_as_string(times)
    if np.datetime_data(times.dtype)[0][-1:] == "s" and np.datetime_data(times.dtype)[0] != "s":
        texts = np.strings.rstrip(np.strings.rstrip(texts, "0"), ".")
    return texts.astype(object)


def check_names(names: Sequence[str], where: str) -> None:
    """Refuse two columns of one name."""
    if twice := next((name for name, count in Counter(names).items() if count > 1), None):
        raise InputError(f"{where}: has two columns of the name {twice!r}; rename one")


def missing_column(where: str, name: str, names: Iterable[str]) -> InputError:
    """The error for a column that is not there."""
    return InputError(f"{where}: has no column {name!r}; its columns are {listed(map(repr, names))}")


def no_array(where: str, name: str, names: Iterable[str]) -> InputError:
    """The error for an array that a file of several does not have."""
    return InputError(f"{where}: has no array {name!r}; its arrays are {listed(map(repr, names))}")


def listed(names: Iterable[str]) -> str:
    """Names for people, and how many more there are."""
    return some_of(names, MOST_NAMED) or "none"


def check_lengths(lengths: dict[str, int], where: str) -> int:
    """The number of rows, which all columns must have."""
    if len(set(lengths.values())) > 1:
        named = ", ".join(f"{name!r} has {rows}" for name, rows in lengths.items())
        raise InputError(f"{where}: all inputs must have the same number of rows, but {named}")
    return next(iter(lengths.values()))


def runs_of(rows: Array) -> list[tuple[int, int]]:
    """Ascending numbers as the runs `[start, stop)` of those that follow each other."""
    if not len(rows):
        return []
    cuts = np.flatnonzero(np.diff(rows) != 1)
    starts, stops = rows[np.r_[0, cuts + 1]], rows[np.r_[cuts, len(rows) - 1]] + 1
    return list(zip(starts.tolist(), stops.tolist(), strict=True))


def taken_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype in which rows are given: text as objects, numbers in native byte order."""
    return np.dtype(object) if dtype.kind in "UST" else dtype.newbyteorder("=")


def row_bytes(array: Array) -> float:
    """Average bytes of one row."""
    return math.prod(array.shape[1:]) * _value_bytes(array)


def _value_bytes(array: Array) -> float:
    if not array.dtype.hasobject or array.size == 0:
        return array.dtype.itemsize
    # Not `array.flat[::step]`: of variable-width strings longer than 15 bytes NumPy gives dangling ones.
    sample = array.reshape(-1)[:: max(1, array.size // _SAMPLED_STRINGS)]
    return sum(len(value) if isinstance(value, (str, bytes)) else array.itemsize for value in sample) / len(sample)
