"""Says which numpy arrays travel in a payload, and turns them into bytes or texts and back.

A numeric array travels as its elements' bytes, little-endian and in C order, under a dtype name of `DTYPES`.
An array of str and bytes travels as the flat list of its elements. Nothing else travels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import ml_dtypes
import numpy as np
import numpy.typing as npt

MAX_DIMS: Final = 32  # numpy 1 has no more
ALIGNMENT: Final = 16  # of the first element, counted from the start of the payload

Array = npt.NDArray[Any]

_OF_NUMPY = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "complex64", "complex128"),
)
_OF_ML_DTYPES = (
    *("bfloat16", "float8_e5m2", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2fnuz"),
    *("float8_e4m3b11fnuz", "float4_e2m1fn", "int2", "int4", "uint2", "uint4"),
)
# The only names that are read: np.dtype() of a text from outside could name any Python object.
DTYPES: Final[dict[str, np.dtype[Any]]] = {
    **{name: np.dtype(name).newbyteorder("<") for name in _OF_NUMPY},
    **{name: np.dtype(getattr(ml_dtypes, name)) for name in _OF_ML_DTYPES},
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def dtype_name(dtype: np.dtype[Any]) -> str | None:
    """The name of a numeric dtype of either byte order, or None if its arrays do not travel."""
    # Variable-width strings have no byte order, and NumPy raises where it is asked for.
    return None if dtype.kind == "T" else _NAMES.get(dtype.newbyteorder("<"))


def holds_texts(array: Array) -> bool:
    """Whether the array may hold str or bytes: dtype object, `U`, `S` or numpy's variable-width string."""
    return array.dtype.kind in "OUST"


def is_possible(shape: Sequence[int], itemsize: int) -> bool:
    """Whether numpy can make an array of this shape; it counts the bytes without the axes of length 0."""
    return len(shape) <= MAX_DIMS and math.prod(n for n in shape if n) * itemsize < 2**63


def raw_bytes(array: Array, name: str) -> memoryview:
    """The elements of a numeric array, little-endian, in C order; copied only if they do not lie so."""
    flat = array.astype(DTYPES[name], order="C", copy=False).reshape(-1).view(np.uint8)
    # A bool made by a view of other bytes is true for numpy, but undefined for C++.
    return (flat if name != "bool" else flat != 0).data


def array_of_raw(name: str, shape: Sequence[int], buffer: memoryview, start: int) -> Array:
    """A view of `buffer` from `start` on; the caller has checked name, shape and length."""
    return np.ndarray(shape, DTYPES[name], buffer=buffer, offset=start)


def array_of_texts(shape: Sequence[int], texts: Sequence[str | bytes]) -> Array:
    """An object array with the elements `texts` in C order; the caller has checked shape and length."""
    flat = np.empty(len(texts), dtype=object)
    flat[:] = texts
    return flat.reshape(shape)
