"""Values that a model's input cannot hold are errors, never another value; what it can hold is cast without a word."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tasks.protocol.dtypes import can_cast, cast
from tasks.protocol.signature import numpy_dtype
from worker_config.errors import OutOfRangeError

FLOAT32_LARGEST = float(np.finfo(np.float32).max)


@pytest.mark.parametrize(
    ("rows", "dtype", "value"),
    [
        (np.array([[1.0, 2.0], [np.nan, 1e39]]), "float32", "1e+39"),
        (np.array([np.inf, -1e300]), "float32", "-1e+300"),
        (np.array([65_520.0]), "float16", "65520.0"),
        (np.array([70_000], np.int32), "float16", "70000"),
        (np.array([3.4e38], np.float32), "bfloat16", "3.3999999521443642e+38"),
        (np.array([1e4], ml_dtypes.bfloat16), "float8_e4m3fn", "9984.0"),
        (np.array([1 + 1e200j]), "complex64", "1e+200"),
        (np.array([2**31]), "int32", "2147483648"),
        (np.array([2**64 - 1], np.uint64), "int64", "18446744073709551615"),
        (np.array([3, -1], np.int8), "uint64", "-1"),
        (np.array([0, 300]), "uint8", "300"),
        (np.array([8]), "int4", "8"),
    ],
)
def test_a_value_beyond_what_the_input_holds_is_told(rows: np.ndarray, dtype: str, value: str) -> None:
    with pytest.raises(OutOfRangeError, match=f"^input x holds {value.replace('+', '[+]')}, which {dtype} cannot hold"):
        cast(rows, numpy_dtype(dtype), "input x")


@pytest.mark.parametrize(
    ("rows", "dtype"),
    [
        (np.array([np.nan, np.inf, -np.inf, FLOAT32_LARGEST, -FLOAT32_LARGEST]), "float32"),
        (np.array([FLOAT32_LARGEST * (1 + 2**-26)]), "float32"),  # is rounded to the largest one
        (np.array([1e-320, 1e-50]), "float32"),
        (np.array([65_519.0]), "float16"),
        (np.array([np.nan, 1.5, np.inf], np.float16), "float32"),
        (np.array([1.5, np.nan], ml_dtypes.bfloat16), "float64"),
        (np.array([2**63 - 1]), "float32"),
        (np.array([True, False]), "int8"),
        (np.array([255, 0]), "uint8"),
        (np.array([7, -8]), "int4"),
        (np.empty((0, 3)), "float32"),
        (np.empty((2, 0), np.int64), "uint8"),
    ],
)
def test_others_are_cast_without_a_word(rows: np.ndarray, dtype: str) -> None:
    made = cast(rows, numpy_dtype(dtype), "input x")
    assert (made.dtype, made.shape) == (numpy_dtype(dtype), rows.shape)
    before, after = (array.astype(np.float64) for array in (rows, made))
    np.testing.assert_array_equal(np.isfinite(before), np.isfinite(after))
    np.testing.assert_allclose(before, after, rtol=1e-3, atol=1e-30)


@pytest.mark.parametrize(
    ("have", "want", "can"),
    [
        (np.float64, "int4", False),  # of a kind that NumPy takes for anything
        (np.float32, "uint4", False),
        (np.float64, "int32", False),
        (np.complex64, "float32", False),
        (np.int64, "int4", True),
        (np.bool_, "int32", True),
        (np.dtype("U3"), "float32", False),
        (np.dtypes.StringDType(), "float32", False),
        (np.dtypes.StringDType(), "string", True),
        (np.int64, "string", False),
    ],
)
def test_floats_never_become_integers_nor_texts_numbers(have: Any, want: str, can: bool) -> None:
    assert can_cast(np.dtype(have), numpy_dtype(want)) is can
