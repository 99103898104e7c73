"""How large numbers are, and which rows hold some that are not finite or larger than a limit.

    arrays, rows first --magnitude--> largest absolute value --above a limit?--> rows_beyond: a mask of rows

The first look reads each array twice, at the speed of memory; rows are told apart only where it finds something. Arrays
have equally many rows, on the first axis; those of a kind that a function does not look for are passed over.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

# A product of such a number with an ordinary one may be too small for float32 to hold with all its digits.
TINY = 1e-30
# Up to here float32 holds all integers.
EXACT = 2**24


def is_float(array: Array) -> bool:
    """Whether the numbers may be NaN or infinite; bfloat16 and its like are of a kind that numpy does not know."""
    return array.dtype.kind in "fc" or (array.dtype.kind == "V" and array.dtype.names is None)


def magnitude(array: Array) -> float:
    """The largest absolute value; NaN where there is a NaN, 0 where there is nothing, or no float."""
    if not is_float(array) or not array.size:
        return 0.0
    if array.dtype.kind == "c":
        return max(magnitude(array.real), magnitude(array.imag))
    if array.dtype.kind == "V":
        array = array.astype(np.float32)
    low, high = float(array.min()), float(array.max())
    return float("nan") if np.isnan(low) else max(-low, high)  # one NaN makes both NaN


def any_mask(masks: Iterable[Array | None]) -> Array | None:
    """A mask of what any of these has; None where there are none, or none of them has anything."""
    found = [mask for mask in masks if mask is not None]
    whole = np.logical_or.reduce(found) if found else None
    return whole if whole is not None and whole.any() else None


def largest_integer(array: Array) -> int:
    """The largest absolute value; 0 where there is nothing, or no integer."""
    if array.dtype.kind not in "iu" or not array.size:
        return 0
    return max(-int(array.min()), int(array.max()))


def rows_with_large_integers(arrays: Iterable[Array], limit: int = EXACT) -> Array | None:
    """A mask of the rows that hold an integer beyond `limit`; None where none do."""
    masks = []
    for array in arrays:
        if array.ndim and array.dtype.kind in "iu" and _most(array.dtype) > limit and largest_integer(array) > limit:
            beyond = (array > limit) | (array < -limit) if array.dtype.kind == "i" else array > limit
            masks.append(np.asarray(beyond.reshape(len(array), -1).any(axis=1)))
    return any_mask(masks)


def _most(dtype: np.dtype[Any]) -> int:
    info = np.iinfo(dtype)
    return max(int(info.max), -int(info.min))


def rows_with_tiny(arrays: Iterable[Array]) -> Array | None:
    """A mask of the rows that hold a number other than 0 that is closer to it than `TINY`; None where none do."""
    masks = []
    for array in arrays:
        if array.ndim and array.size and array.dtype.kind == "f":
            sizes = np.abs(array.reshape(len(array), -1))
            least = max(TINY, float(np.finfo(array.dtype).tiny))
            masks.append(np.asarray(((sizes > 0) & (sizes < least)).any(axis=1)))
    return any_mask(masks)


def rows_beyond(arrays: Iterable[Array], limit: float = math.inf) -> Array | None:
    """A mask of the rows that hold a NaN, an infinity or a value beyond `limit`; None where there are none."""
    masks = []
    for array in arrays:
        largest = magnitude(array)
        if not array.ndim or (largest <= limit and math.isfinite(largest)):
            continue
        if array.dtype.kind == "V":
            array = array.astype(np.float32)
        for part in (array.real, array.imag) if array.dtype.kind == "c" else (array,):
            # In float64, as a limit may be larger than what the array's own kind can hold.
            within = np.isfinite(part) & (np.abs(part) <= np.float64(limit))
            masks.append(np.asarray(~within.reshape(len(part), -1).all(axis=1)))
    return any_mask(masks)
