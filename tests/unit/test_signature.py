"""Rows and a model's inputs: what fits, what is cast, and what is said when neither."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tasks.protocol.records import TensorSpec
from tasks.protocol.signature import fit, numpy_dtype
from worker_config.errors import InputError

PIXELS = [TensorSpec("pixels", "float32", (None, 64))]
PAIR = [TensorSpec("left", "float32", (None, 4)), TensorSpec("right", "int32", (None, None))]


def test_one_array_is_the_only_input() -> None:
    rows = np.ones((2, 64), np.float32)
    assert fit(rows, PIXELS, "m", ordered=True)["pixels"] is rows
    assert fit({"anything": rows}, PIXELS, "m", ordered=True)["pixels"] is rows


@pytest.mark.parametrize("dtype", ["float64", "float16", "int64", "uint8", "bool"])
def test_numbers_are_cast_as_keras_does(dtype: str) -> None:
    assert fit(np.ones((2, 64), dtype), PIXELS, "m", ordered=True)["pixels"].dtype == np.float32


def test_a_tuple_goes_by_order_and_a_dict_by_name() -> None:
    left, right = np.ones((2, 4), np.float32), np.ones((2, 9), np.int32)
    for rows in ((left, right), {"right": right, "left": left}):
        fitted = fit(rows, PAIR, "m", ordered=True)
        assert fitted["left"] is left
        assert fitted["right"] is right


def test_strings_fit_a_string_input() -> None:
    words = [TensorSpec("words", "string", (None,))]
    assert fit(np.array(["a", "bc"]), words, "m", ordered=True)["words"].dtype == object


@pytest.mark.parametrize(
    ("rows", "inputs", "words"),
    [
        (np.ones((2, 63)), PIXELS, r"pixels \(\?, 64\) float32; .*\(63\)"),
        (np.ones(2), PIXELS, "shape"),
        (np.ones((2, 64), complex), PIXELS, "complex128, which does not convert"),
        (np.full((2, 64), "a", object), PIXELS, r"the data set is text \(object\), which does not convert"),
        ((np.ones((2, 4)), np.ones((2, 3))), PAIR, "float64, which does not convert"),
        ((np.ones((2, 4)), np.full((2, 3), 2**40)), PAIR, "1099511627776, which int32 cannot hold"),
        (np.ones((2, 4)), PAIR, "'left', 'right'; the data set is one array"),
        ({"left": np.ones((2, 4)), "wrong": np.ones((2, 3))}, PAIR, "'left', 'wrong'"),
    ],
)
def test_what_does_not_fit_is_told_with_what_the_model_wants(rows: Any, inputs: list[TensorSpec], words: str) -> None:
    with pytest.raises(InputError, match=words) as refused:
        fit(rows, inputs, "digits", ordered=True)
    assert "model digits" in str(refused.value)


def test_dtype_names_of_tensorflow_are_known() -> None:
    assert numpy_dtype("bfloat16").itemsize == 2
    assert numpy_dtype("bool") == np.bool_
    assert numpy_dtype("string").hasobject


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ((3,), (None, 1)),
        ((3, 28, 28), (None, 28, 28, 1)),
        ((3, 4), (None, None, 1)),
        ((3, 1), (None,)),
        ((3, 28, 28, 1), (None, 28, 28)),
        ((3, 4, 1), (None, None)),
    ],
)
def test_a_last_dimension_of_1_is_added_or_taken(given: tuple[int, ...], wanted: tuple[int | None, ...]) -> None:
    rows = np.arange(np.prod(given), dtype=np.float32).reshape(given)
    fitted = fit(rows, [TensorSpec("x", "float32", wanted)], "m", ordered=True)["x"]
    assert fitted.ndim == len(wanted)
    assert fitted.ravel().tolist() == rows.ravel().tolist()


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ((3,), (None, 2)),
        ((3,), (None, None)),
        ((3, 1, 4), (None, 4)),
        ((3, 4), (None, 1, 4)),
        ((3,), (None, 1, 1)),
        ((3, 28, 27), (None, 28, 28, 1)),
        ((3, 784), (None, 28, 28, 1)),
        ((3, 4, 2), (None, 4)),
    ],
)
def test_nothing_else_is_reshaped(given: tuple[int, ...], wanted: tuple[int | None, ...]) -> None:
    with pytest.raises(InputError, match="the data set's rows have the shape"):
        fit(np.zeros(given, np.float32), [TensorSpec("x", "float32", wanted)], "m", ordered=True)


def test_arrays_that_are_no_inputs_are_left_alone() -> None:
    rows = {"left": np.ones((2, 4), np.float32), "when": np.zeros(2, "M8[D]"), "right": np.ones((2, 3), np.int32)}
    assert list(fit(rows, PAIR, "m", ordered=True)) == ["left", "right"]


def test_an_array_of_a_tuple_is_taken_for_the_input_that_it_fits_as_it_is() -> None:
    inputs = [TensorSpec("flat", "float32", (None,)), TensorSpec("column", "float32", (None, 1))]
    column, flat = np.ones((2, 1), np.float32), np.ones(2, np.float32)
    fitted = fit((column, flat), inputs, "m", ordered=False)
    assert fitted["column"] is column
    assert fitted["flat"] is flat
