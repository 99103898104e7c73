"""The gate: what tells a wrong executor from a right one, and the rows that it looks at."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from tasks.accuracy.accuracy_gate import compare, differs, tells_apart
from tasks.preparation.generated_rows import generated_rows
from tasks.protocol.records import TensorSpec

RANDOM = np.random.default_rng(5)
SCORES = RANDOM.standard_normal((64, 10)).astype(np.float32)


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        ([np.full((8, 10), 0.1, np.float32)], "same for all rows"),
        ([np.full((8, 10), 0.1, np.float32) + 1e-8 * SCORES[:8]], "(same for all rows|no more than rounding)"),
        ([np.where(SCORES > 2, np.nan, SCORES)], "not finite"),
        ([SCORES, np.zeros((64, 2), np.float32)], "output 1 is the same"),
        ([np.ones(8, np.int64)], "the same for all rows"),
        ([SCORES[:1]], "no rows to compare"),
        ([SCORES[:, :0]], "no values"),
    ],
)
def test_outputs_that_prove_nothing(outputs: list[np.ndarray], words: str) -> None:
    import re

    assert re.search(words, tells_apart(outputs))


@pytest.mark.parametrize(
    "outputs",
    [
        [SCORES],
        [SCORES, np.zeros(64, np.int64)],  # a class that always wins
        [SCORES > 0],
        [SCORES.astype(ml_dtypes.bfloat16)],
        [np.array([b"a", b"b"], object)],
        [1e3 + SCORES[:, 0]],
    ],
)
def test_outputs_that_tell_rows_apart(outputs: list[np.ndarray]) -> None:
    assert tells_apart(outputs) == ""
    assert compare(outputs, outputs).agrees


def test_rounding_agrees_and_more_does_not() -> None:
    assert compare([SCORES], [SCORES * np.float32(1 + 1e-6)]).agrees
    wrong = SCORES.copy()
    wrong[3, 7] += 0.002
    found = compare([SCORES], [wrong])
    assert not found.agrees
    assert "deviates" in found.why
    assert 0.001 < found.error < 0.003


def test_an_offset_does_not_hide_a_deviation() -> None:
    reference = np.float32(1000) + SCORES
    found = compare([reference], [reference + np.float32(0.05)])
    assert not found.agrees
    assert "of its spread" in found.why


def test_a_column_that_never_moves_has_no_say_of_its_own() -> None:
    reference = np.concatenate([SCORES, np.zeros((64, 1), np.float32)], axis=1)
    outputs = reference.copy()
    outputs[:, -1] = 1e-6
    found = compare([reference], [outputs])
    assert found.agrees
    assert found.error < 1e-4


def test_small_columns_are_not_lost_beside_large_ones() -> None:
    boxes = np.concatenate([100 * SCORES[:, :4], SCORES[:, 4:]], axis=1)
    outputs = boxes.copy()
    outputs[:, 5] = 0.0
    assert compare([boxes], [outputs], exact=False, tolerance=0.05).error > 0.05


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_never_agrees(bad: float) -> None:
    outputs = SCORES.copy()
    outputs[5, 5] = bad
    for found in (compare([SCORES], [outputs]), compare([SCORES], [outputs], exact=False, tolerance=9, agreement=0.1)):
        assert not found.agrees
        assert "not finite at other places" in found.why


def test_rows_that_hurt_agree_in_the_places_of_nan_and_infinity() -> None:
    wanted = np.array([[0.0, np.nan], [np.inf, 1.0], [-np.inf, 2.0]], np.float32)
    assert differs([wanted], [wanted.copy()]) == ""
    for place, value in (((0, 1), 0.0), ((1, 0), -np.inf), ((1, 1), np.nan), ((2, 0), 3e38)):
        got = wanted.copy()
        got[place] = value
        for exact in (True, False):
            assert (
                differs([wanted], [got], exact=exact)
                == "the output is not finite at other places than the model's, 1 of 6"
            )


def test_rows_that_hurt_agree_in_size() -> None:
    wanted, got = np.full((4, 2), 195.6, np.float32), np.full((4, 2), 195.7, np.float32)
    assert differs([wanted], [got]) == ""
    assert "deviates by 0.0015 of its size" in differs([wanted], [got + np.float32(0.2)])
    assert differs([wanted], [got + 1], exact=False) == ""
    assert "1 of 4 values" in differs([np.arange(4)], [np.array([0, 1, 2, 4])])
    assert differs([wanted[:0]], [got[:0]]) == ""


def test_rows_close_to_0_are_judged_in_their_own_size() -> None:
    wanted = np.array([[7.0, 1.0], [1e-7, 2e-7], [0.0, 1e-16]], np.float32)
    got = wanted.copy()
    got[1, 0] = 1.1e-7
    assert differs([wanted], [got]) == ""
    assert "of its size" in differs([wanted], [got], sizes=np.array([7.0, 1e-7, 1e-7]))
    got = wanted.copy()
    got[2, 1] = 2e-16  # what rounding leaves of 1e-7
    assert differs([wanted], [got], sizes=np.array([7.0, 1e-7, 1e-7])) == ""


def test_form_and_what_is_no_float_must_be_the_same() -> None:
    labels = SCORES.argmax(axis=1)
    others = labels.copy()
    others[0] += 1
    assert "1 of 64" in compare([labels], [others]).why
    assert "instead of" in compare([labels], [labels.astype(np.int32)]).why
    assert "instead of" in compare([SCORES], [SCORES[:-1]]).why
    assert "1 outputs instead of 2" in compare([SCORES, labels], [SCORES]).why
    assert not compare([SCORES, labels], [SCORES, others], exact=False, tolerance=0.1).agrees
    assert compare([SCORES, labels], [SCORES, others], exact=False, tolerance=0.1, agreement=0.9).agrees


def test_a_lower_precision_is_held_to_tolerance_and_agreement() -> None:
    outputs = SCORES + np.float32(0.02)
    assert compare([SCORES], [outputs], exact=False, tolerance=0.03).agrees
    refused = compare([SCORES], [outputs], exact=False, tolerance=0.01)
    assert refused.why.endswith("of the outputs' spread on 64 rows, 0.01 is allowed")
    flipped = SCORES.copy()
    flipped[:8] *= -1
    assert compare([SCORES], [flipped], exact=False, agreement=0.8).agreement == 56 / 64
    assert (
        "has the same largest output for 87.50 % of 64 rows"
        in compare([SCORES], [flipped], exact=False, agreement=0.9).why
    )
    assert not compare([SCORES], [flipped], exact=False, agreement=0.8, tolerance=0.1).agrees  # both must hold


def test_an_agreement_that_anything_would_reach_means_nothing() -> None:
    always = SCORES + 100 * np.eye(10, dtype=np.float32)[3]
    assert "means nothing" in compare([always], [always * 0 + always[:1]], exact=False, agreement=0.9).why
    assert "means nothing" in compare([SCORES[:, :1]], [SCORES[:, :1]], exact=False, agreement=0.9).why


def test_generated_rows_fit_the_inputs_and_are_the_same_each_time() -> None:
    inputs = [
        TensorSpec("pixels", "uint8", (None, 8, 8)),
        TensorSpec("words", "int32", (None, None)),
        TensorSpec("scale", "bfloat16", (None, 2)),
        TensorSpec("flag", "bool", (None,)),
    ]
    rounds = list(generated_rows(inputs, 64))
    assert len(rounds) == 3
    assert [array.shape for array in rounds[0]] == [(128, 8, 8), (128, 16), (128, 2), (128,)]
    assert [array.dtype.name for array in rounds[0]] == ["uint8", "int32", "bfloat16", "bool"]
    assert [rounds[number][1].max() for number in range(3)] == [255, 9, 1]
    again = next(generated_rows(inputs, 64))
    assert all(np.array_equal(a, b) for a, b in zip(rounds[0], again, strict=True))


@pytest.mark.parametrize(("row", "batch_rows", "count"), [(4, 1, 8), (4, 10_000, 512), (2**20, 64, 16), (2**22, 64, 8)])
def test_generated_rows_are_bounded(row: int, batch_rows: int, count: int) -> None:
    [array] = next(generated_rows([TensorSpec("x", "float32", (None, row))], batch_rows))
    assert len(array) == count


def test_no_rows_are_made_up_for_strings() -> None:
    assert not list(generated_rows([TensorSpec("x", "string", (None,))], 8))
