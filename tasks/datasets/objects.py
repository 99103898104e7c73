"""Arrays of Python objects, such as columns of frames, with values that are missing.

texts, or numbers --without_nulls--> texts, or numbers of one dtype; which are missing
texts with others among them --odd_texts--> these rows marked
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from math import isnan
from numbers import Number
from typing import Any

import numpy as np

from tasks.datasets.columns import FLOAT_GAPS, columns_of, place
from tasks.datasets.marked import marked, plain, unfed_of
from tasks.datasets.rows import Column, Rows
from tasks.protocol.codec import Array, tree_like
from worker_config.errors import InputError

# Types by name, as their libraries need not be here: of what stands for no value (NaN is a float), and of times.
_MISSING = ("NoneType", "NAType", "NaTType")
_TIMES = ("datetime", "date", "time", "Timestamp", "Timedelta", "timedelta")


def without_nulls(array: Array, where: str) -> tuple[Array, Array | None]:
    """An array of objects as one of texts, or of numbers of one dtype, and which of its rows are or hold none.

    Something of the form of a value stands in the place of one that is missing: None, NaT, pandas' NA, among texts also
    NaN. Arrays of other dtypes are what they are.

    Raises:
        InputError: there are neither texts nor numbers; the text says what there is, and how to mend it. Where texts
            are among others, rows without one fail for themselves.
    """
    if array.dtype.kind != "O" or not array.size:
        return array, None
    kinds = Counter(map(type, array.flat))
    is_text = any(issubclass(kind, str | bytes) for kind in kinds)
    missing = np.zeros(array.shape, np.bool_)
    if any(kind.__name__ in _MISSING or (is_text and issubclass(kind, float)) for kind in kinds):
        is_null = _is_missing if is_text else _is_null
        missing[...] = np.reshape([is_null(value) for value in array.flat], array.shape)
    if is_text:
        values = array
        if missing.any():
            values = array.copy()
            values[missing] = ""
    elif (numbers := _numbers(array[~missing], kinds)) is not None:
        values = np.zeros((*array.shape, *numbers.shape[1:]), numbers.dtype)
        values[~missing] = numbers
    else:
        raise _refused(array, kinds, where)
    nulls = np.asarray(missing.any(axis=tuple(range(1, missing.ndim))))
    return values, nulls if nulls.any() else None


def _numbers(values: Array, kinds: Collection[type]) -> Array | None:
    """Numbers of one dtype that has each of them exactly; None where there is none, or no number."""
    held = [kind for kind in kinds if kind.__name__ not in _MISSING]
    truth = [issubclass(kind, bool | np.bool_) for kind in held]
    if held and all(issubclass(kind, list | tuple | np.ndarray) for kind in held):
        return _lists(values)
    if not held or not all(issubclass(kind, int | float | np.bool_ | np.integer | np.floating) for kind in held):
        return None
    numbers = np.asarray(values.tolist())
    if numbers.dtype.kind == "f" and all(isinstance(value, int) and 0 <= value < 2**64 for value in values):
        numbers = values.astype(np.uint64)
    if numbers.dtype.kind not in "biuf" or (any(truth) and not all(truth)):
        return None
    is_exact = numbers.dtype.kind != "f" or all(
        number == value for number, value in zip(numbers.tolist(), values, strict=True) if not isinstance(value, float)
    )
    return numbers if is_exact else None


def _lists(values: Array) -> Array | None:
    """Lists or arrays of numbers, all of one shape, as one array."""
    try:
        arrays = [np.asarray(value) for value in values]
    except ValueError:  # there are lists of many lengths in one
        return None
    if len({array.shape for array in arrays}) > 1 or any(array.dtype.kind not in "biuf" for array in arrays):
        return None
    stacked = np.stack(arrays)
    whole = [array for array in arrays if array.dtype.kind in "iu"] if stacked.dtype.kind == "f" else []
    return None if any((array >= FLOAT_GAPS).any() or (array <= -FLOAT_GAPS).any() for array in whole) else stacked


def _refused(array: Array, kinds: Counter[type], where: str) -> InputError:
    held = ", ".join(f"{count:,} {kind.__name__}" for kind, count in kinds.most_common(4))
    first = next((row for row, value in enumerate(array) if _is_missing(value)), None)
    missing = "" if first is None else f", the first missing value in row {first}"
    return InputError(f"{where}: is an array of Python objects ({held}{missing}); {_remedy(kinds)}")


def _remedy(kinds: Collection[type]) -> str:
    values = [kind for kind in kinds if kind.__name__ not in _MISSING]
    if not values:
        return "it has no value at all: leave it out"
    if all(issubclass(kind, Number) for kind in values):
        missing = ", in which missing values are NaN, or fill them before" if len(values) < len(kinds) else ""
        return f"make it numbers of one dtype, as with .astype('float64'){missing}"
    if all(kind.__name__ in _TIMES for kind in values):
        return "convert the times to numbers"
    if any(issubclass(kind, list | tuple | np.ndarray) for kind in values):
        return "make them numbers of one shape, or give rows of many shapes as a table of Arrow, or one by one"
    return "convert it to numbers or texts"


def _is_null(value: object) -> bool:
    return type(value).__name__ in _MISSING


def _is_missing(value: object) -> bool:
    return _is_null(value) or (isinstance(value, float) and isnan(value))


def odd_texts(rows: Rows) -> Rows:
    """Rows with what is no text, or none that can travel, in a column of texts, marked; an empty one stands there."""
    unfed: dict[int, str] = {}
    columns: dict[str, Column] = columns_of(plain(rows), "rows")
    for name, column in columns.items():
        if isinstance(column, list) or column.dtype.kind != "O":
            continue
        odd = {row: why for row in range(len(column)) if (why := _odd(column[row]))}
        if odd:
            columns[name] = column = column.copy()
            column[list(odd)] = ""
            what = place("", name).removeprefix(": ") or "it"
            unfed = {row: f"{what} {why}" for row, why in odd.items()} | unfed
    return marked(tree_like(plain(rows), columns), {**unfed, **unfed_of(rows)})


def _odd(row: Any) -> str:
    """What is wrong with a row of a column of texts: one, or an array of them; empty where nothing is."""
    for value in row.flat if isinstance(row, np.ndarray) else (row,):
        if isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError:
                return "is a text with a lone surrogate, which has no UTF-8; give bytes"
        elif not isinstance(value, bytes):
            if _is_missing(value):
                return "is missing; fill it before"
            return f"is of type {type(value).__name__}, not a text"
    return ""
