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
        (np.full((2, 64), "a", object), PIXELS, "object, which does not convert"),
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
