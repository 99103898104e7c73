"""What stands in the place of rows that failed, and parts without them."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from producer.rows.drop_rows import blank_like, drop_rows
from producer.rows.part import Part
from tasks.protocol.dtypes import filler_rows, json_filler
from tasks.protocol.messages import FailureRecord


def failed(start: int, stop: int) -> FailureRecord:
    return FailureRecord(start, stop, "infer", "ValueError", "bad")


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        (np.int8, -1),
        (np.int64, -1),
        (np.uint8, 255),
        (np.uint64, 2**64 - 1),
        (ml_dtypes.int4, -1),
        (ml_dtypes.uint4, 15),
        (np.bool_, False),
        ("U3", ""),
        ("S2", b""),
        (object, b""),
    ],
)
def test_values_that_have_no_nan(dtype: object, value: object) -> None:
    assert json_filler(np.dtype(dtype)) == (value or (value if value is False else ""))  # type: ignore[call-overload]
    rows = filler_rows(np.dtype(dtype), (2, 3))  # type: ignore[call-overload]
    assert rows.shape == (2, 3)
    assert rows.dtype == np.dtype(dtype)  # type: ignore[call-overload]
    assert all(one == value for one in rows.flat)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.complex64, ml_dtypes.bfloat16])
def test_values_that_have(dtype: type) -> None:
    rows = filler_rows(np.dtype(dtype), (4,))
    assert rows.dtype == dtype
    assert json_filler(rows.dtype) == "NaN"
    assert np.isnan(rows.astype(np.complex128)).all()


def test_rows_are_left_out_of_every_output() -> None:
    outputs = {"a": np.arange(5), "b": {"c": np.arange(10).reshape(5, 2)}}
    part = Part(2, 10, 15, outputs, (failed(11, 12), failed(13, 15)))
    dropped = drop_rows(part, with_failed=True)
    assert (dropped.rows, dropped.skipped, dropped.failed) == (2, 3, part.failed)
    assert dropped.outputs["a"].tolist() == [0, 2]  # type: ignore[index]
    assert dropped.outputs["b"]["c"].tolist() == [[0, 1], [4, 5]]  # type: ignore[index]
    assert part.failed_rows == 3


@pytest.mark.parametrize(("with_failed", "numbers"), [(True, [10, 14]), (False, [10, 11, 14])])
def test_rows_dropped_on_purpose_are_left_out_whatever_becomes_of_those_that_failed(
    with_failed: bool, numbers: list[int]
) -> None:
    part = Part(2, 10, 15, np.arange(10, 15), (failed(11, 12),), dropped=((12, 14),))
    left = drop_rows(part, with_failed=with_failed)
    assert left.numbers().tolist() == np.asarray(left.outputs).tolist() == numbers
    assert (left.failed_rows, left.dropped_rows, left.predicted_rows) == (1, 2, 2)


def test_outputs_of_rows_that_all_failed_have_the_form_of_others() -> None:
    form = {"a": np.zeros((0, 2), np.float32), "b": np.zeros((0,), np.int64)}
    blank = blank_like(form, 3)
    assert blank["a"].shape == (3, 2)  # type: ignore[index]
    assert np.isnan(blank["a"]).all()  # type: ignore[index]
    assert blank["b"].tolist() == [-1, -1, -1]  # type: ignore[index]


def test_rows_that_all_failed_have_an_empty_text_among_texts_and_empty_bytes_among_bytes() -> None:
    blank: Any = blank_like({"text": np.array(["a"], object), "bytes": np.array([b"a"], object)}, 2)
    assert {name: column.tolist() for name, column in blank.items()} == {"text": ["", ""], "bytes": [b"", b""]}
