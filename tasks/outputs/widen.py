"""Arrays of bfloat16, float8, int4 and the like --> of the next dtype that files can hold, with the same values.

floats --> float32      signed integers --> int8      unsigned integers --> uint8
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tasks.protocol.codec import Array
from tasks.protocol.dtypes import filler, is_integer, limits_of


def wide_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype in which it is written; itself, where it is one of NumPy's own."""
    if dtype.isbuiltin != 2:  # registered by another library
        return dtype
    if not is_integer(dtype):
        return np.dtype(np.float32)
    return np.dtype(np.int8 if limits_of(dtype)[0] < 0 else np.uint8)


def widened(array: Array, filled: Array | None) -> Array:
    """The array in that dtype; rows that failed, where a mask tells of them, have the filler of the new one."""
    dtype = wide_dtype(array.dtype)
    if dtype == array.dtype:
        return array
    wide: Array = array.astype(dtype)
    if filled is not None:
        wide[filled] = filler(dtype)
    return wide
