"""This module says what stands in the place of a row that has no prediction."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np


def filler(dtype: np.dtype[Any], like: object = None) -> Any:
    """NaN, NaT, False, 0 or an empty text; of an object array one like the values that it has, bytes by default."""
    if dtype.kind == "O":
        return "" if isinstance(like, str) else b""
    if dtype.kind in "fc":
        return np.nan
    if dtype.kind in "Mm":
        return np.array("NaT", dtype)
    if dtype.kind == "T":
        return ""
    if dtype.kind == "V" and not dtype.names:  # such as bfloat16, which numpy does not know for a float
        try:
            ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
            return np.array(np.nan, np.float32).astype(dtype)
        except ValueError:
            pass
    return np.zeros((), dtype)[()]


def filler_rows(dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """An array of it."""
    rows = np.empty(shape, dtype)
    rows[...] = filler(dtype)
    return rows
