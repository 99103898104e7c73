"""Rows are cut into pieces, and outputs of pieces joined."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tasks.child.chunk_rows import check_rows, rows_between
from tasks.models.output_assembler import OutputAssembler
from tasks.protocol import codec
from worker_config.errors import InputError, ModelError

RAGGED = [np.arange(n) for n in range(6)]


@pytest.mark.parametrize(
    "rows",
    [
        np.arange(12).reshape(6, 2),
        {"a": np.arange(6), "b": np.arange(12).reshape(6, 2)},
        (np.arange(6), np.arange(6, 12)),
        RAGGED,
        {"a": np.arange(6), "b": RAGGED},
    ],
    ids=["array", "dict", "tuple", "ragged", "ragged in a dict"],
)
def test_pieces_have_the_form_of_the_rows(rows: Any) -> None:
    check_rows(rows, 6)
    piece = rows_between(rows, 2, 5)
    assert type(piece) is type(rows)
    check_rows(piece, 3)
    columns = list(piece.values()) if isinstance(piece, dict) else piece if isinstance(piece, tuple) else [piece]
    whole = list(rows.values()) if isinstance(rows, dict) else rows if isinstance(rows, tuple) else [rows]
    for column, of in zip(columns, whole, strict=True):
        for row in range(3):
            np.testing.assert_array_equal(column[row], of[row + 2])


@pytest.mark.parametrize(
    "rows", [np.arange(5), np.float32(1), {"a": np.arange(6), "b": np.arange(5)}, RAGGED[:5]], ids=str
)
def test_columns_of_other_lengths_cannot_be_cut(rows: Any) -> None:
    with pytest.raises(InputError, match="columns of 6 rows"):
        check_rows(rows, 6)


def test_a_single_piece_is_the_outputs_as_they_are() -> None:
    outputs = {"a": np.arange(3)}
    joined = OutputAssembler(3)
    joined.add(0, 3, outputs)
    assert joined.finish() is outputs
    assert joined.rows == 3


@pytest.mark.parametrize(
    ("values", "filler"),
    [
        (np.array([1.5, 2.5], np.float32), np.nan),
        (np.array([1.5, 2.5], np.float64), np.nan),
        (np.array([1.5, 2.5], np.float16), np.nan),
        (np.array([1.5, 2.5]).astype(ml_dtypes.bfloat16), np.nan),
        (np.array([1 + 2j, 3j], np.complex64), np.nan),
        (np.array([1, 2], np.int8), -1),
        (np.array([1, 2], np.uint64), 2**64 - 1),
        (np.array([1, 2]).astype(ml_dtypes.int4), -1),
        (np.array([1, 2]).astype(ml_dtypes.uint4), 15),
        (np.array([True, True]), False),
        (np.array(["a", "bc"]), ""),
        (np.array([b"a", b"bc"]), b""),
        (np.array(["a", "bc"], object), ""),
        (np.array([b"a", b"bc"], object), b""),
    ],
    ids=lambda value: str(value.dtype) if isinstance(value, np.ndarray) else "",
)
def test_a_filler_stands_where_a_row_has_no_outputs(values: np.ndarray, filler: Any) -> None:
    joined = OutputAssembler(5)
    joined.add(1, 2, values[:1])
    joined.add(3, 4, values[1:])
    whole = joined.finish()
    assert joined.rows == 2
    assert whole.dtype == values.dtype
    np.testing.assert_array_equal(whole[[1, 3]], values)
    for row in (0, 2, 4):
        assert type(whole[row].item() if isinstance(whole[row], np.generic) else whole[row]) is type(
            values[0].item() if isinstance(values[0], np.generic) else values[0]
        )
        assert np.isnan(whole[row].astype(complex)) if filler is np.nan else whole[row] == filler
    codec.encode(whole)


def test_outputs_are_joined_leaf_by_leaf() -> None:
    rows = np.arange(12, dtype=np.float32).reshape(6, 2)
    joined = OutputAssembler(6)
    for start, stop in ((0, 2), (3, 6)):
        piece = rows[start:stop]
        joined.add(start, stop, {"a": piece, "b": {"sum": piece.sum(axis=1), "count": np.arange(start, stop)}})
    whole = joined.finish()
    good = [0, 1, 3, 4, 5]
    np.testing.assert_array_equal(whole["a"][good], rows[good])
    np.testing.assert_array_equal(whole["b"]["sum"][good], rows.sum(axis=1)[good])
    np.testing.assert_array_equal(whole["b"]["count"], [0, 1, -1, 3, 4, 5])
    assert np.isnan(whole["a"][2]).all()
    assert np.isnan(whole["b"]["sum"][2])


def test_longer_texts_and_wider_numbers_widen_the_whole() -> None:
    joined = OutputAssembler(3)
    joined.add(0, 1, {"text": np.array(["a"]), "number": np.array([7], np.int32)})
    joined.add(1, 2, {"text": np.array(["abcdef"]), "number": np.array([0.5])})
    whole = joined.finish()
    assert whole["text"].tolist() == ["a", "abcdef", ""]
    np.testing.assert_array_equal(whole["number"], [7, 0.5, np.nan])


@pytest.mark.parametrize(
    ("outputs", "error"),
    [
        (np.ones((2, 4)), r"the output has rows of shape \(3,\) and of shape \(4,\)"),
        (np.array([["a"] * 3] * 2), "do not go together"),
        ({"a": np.ones((2, 3))}, "outputs '' for some rows and 'a' for others"),
    ],
    ids=["shape", "kind", "names"],
)
def test_outputs_of_another_form_are_refused_and_their_rows_stay_missing(outputs: Any, error: str) -> None:
    joined = OutputAssembler(4)
    joined.add(0, 2, np.ones((2, 3)))
    with pytest.raises(ModelError, match=error):
        joined.add(2, 4, outputs)
    whole = joined.finish()
    assert joined.rows == 2
    np.testing.assert_array_equal(whole[:2], np.ones((2, 3)))
    assert np.isnan(whole[2:]).all()
