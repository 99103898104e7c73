"""Which rows are not finite, or larger than a limit."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from tasks.models.finite import EXACT, magnitude, rows_beyond, rows_with_large_integers, rows_with_tiny


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16, np.complex64])
def test_rows_that_are_not_finite_are_found(dtype: type) -> None:
    rows = np.ones((5, 3), dtype)
    assert rows_beyond([rows]) is None
    rows[1, 2], rows[3, 0] = np.nan, -np.inf
    mask = rows_beyond([np.zeros((5, 2), np.int64), rows, np.array(list("abcde"), object)])
    assert mask is not None
    assert mask.tolist() == [False, True, False, True, False]


def test_a_limit_is_of_the_absolute_value() -> None:
    rows = np.array([1.0, -9.0, 10.0, -11.0, 0.0], np.float32)
    mask = rows_beyond([rows], 10)
    assert mask is not None
    assert mask.tolist() == [False, False, False, True, False]
    assert magnitude(rows) == 11


def test_nothing_and_what_is_no_float_is_within_any_limit() -> None:
    assert rows_beyond([np.empty((0, 4), np.float32), np.array([2**60]), np.float32(np.nan).reshape(())], 1) is None
    assert magnitude(np.array([], np.float32)) == magnitude(np.array([True])) == 0


def test_tiny_numbers_are_found() -> None:
    rows = np.array([[0.0, 1e-40], [-1e-44, 1.0], [1e-29, np.nan]], np.float32)
    mask = rows_with_tiny([rows, np.arange(3)])
    assert mask is not None
    assert mask.tolist() == [True, True, False]
    assert rows_with_tiny([rows[2:], rows[:0]]) is None


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint32, np.uint64])
def test_integers_that_float32_does_not_hold_are_found(dtype: type) -> None:
    rows = np.array([[0, EXACT], [EXACT + 1, 1], [5, 7]], dtype)
    mask = rows_with_large_integers([rows, np.full((3, 1), np.nan), np.full((3, 2), 255, np.uint8)])
    assert mask is not None
    assert mask.tolist() == [False, True, False]
    assert rows_with_large_integers([rows[::2], rows[:0]]) is None


def test_large_negative_integers_are_found() -> None:
    pixels = np.array([[7, 100], [101, 0], [3, 255]], np.uint8)
    assert (rows_with_large_integers([pixels], 100) == [False, True, True]).all()
    assert rows_with_large_integers([pixels], 255) is None
    assert rows_with_large_integers([np.array([[-8], [-128]], np.int8)], 127).tolist() == [False, True]
    mask = rows_with_large_integers([np.array([-EXACT, -EXACT - 1, np.iinfo(np.int64).min])])
    assert mask is not None
    assert mask.tolist() == [False, True, True]
