"""What stands in the place of a row that has no prediction: no ordinary value, where the dtype has such.

floats, complex numbers      NaN
signed integers              -1
unsigned integers            the largest value
dates, durations             NaT
booleans                     False
texts, bytes                 empty
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from tasks.protocol.casting import is_integer, limits_of


def filler(dtype: np.dtype[Any], like: object = None) -> Any:
    """The value for a dtype; for an object array, text or bytes like a value that it has, bytes by default."""
    if dtype.kind == "O":
        return "" if isinstance(like, str) else b""
    if dtype.kind in "fc":
        return np.nan
    if dtype.kind in "Mm":
        return np.array("NaT", dtype)
    if dtype.kind == "T":
        return ""
    if is_integer(dtype):
        least, largest = limits_of(dtype)
        return np.array(-1 if least < 0 else largest).astype(dtype)[()]
    if dtype.kind == "V" and not dtype.names:  # such as bfloat16, which numpy does not know for a float
        try:
            ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
            return np.array(np.nan, np.float32).astype(dtype)
        except ValueError:
            pass
    return np.zeros((), dtype)[()]


def told_filler(dtype: np.dtype[Any]) -> int | bool | str:
    """The same as JSON can tell it: a number, false, "", "NaN" or "NaT"."""
    if dtype.kind in "OTSU":
        return ""
    if dtype.kind in "Mm":
        return "NaT"
    if is_integer(dtype):
        return int(filler(dtype))
    return bool(filler(dtype)) if dtype.kind == "b" else "NaN"


def filler_rows(dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """An array of it."""
    rows = np.empty(shape, dtype)
    rows[...] = filler(dtype)
    return rows
