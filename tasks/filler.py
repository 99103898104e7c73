"""This module says what stands in the place of a row that has no prediction."""

from __future__ import annotations

from typing import Any

import numpy as np


def filler_rows(dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """An array of NaN for floats, False, 0, or empty strings; object arrays, which hold bytes, of empty ones."""
    if dtype.kind == "O":
        return np.full(shape, b"", dtype)
    has_nan = dtype.kind in "fc" or dtype.name == "bfloat16"
    return np.full(shape, np.nan, dtype) if has_nan else np.zeros(shape, dtype)
