"""Outputs held against float64: rounding as large as the own graph's is right, whatever it is; more is not."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.accuracy.accuracy_gate import compare, differs
from tasks.accuracy.deviations import RELATIVE
from tasks.accuracy.rounding import bounds, no_measure

TRUTH = np.random.default_rng(3).normal(size=(64, 10))


def rounded(error: float, seed: int) -> np.ndarray:
    """The truth in float32, with as large an error as rounding in a deep network makes; of the columns' size."""
    random = np.random.default_rng(seed)
    return (TRUTH + error * np.abs(TRUTH).max(axis=0) * random.normal(size=TRUTH.shape) / 3).astype(np.float32)


def judged(own: np.ndarray, outputs: np.ndarray, truth: np.ndarray = TRUTH, noise: float = 0.0) -> tuple[bool, str]:
    found = compare([own], [outputs], bounds=bounds([own], [truth] if truth.size else [], [noise]))
    assert found.agrees == (not found.why)
    return found.agrees, found.why


def test_an_executor_may_be_as_far_from_the_truth_as_the_own_graph() -> None:
    own = rounded(1.5e-4, 1)
    for seed in range(2, 12):
        other = rounded(1.5e-4, seed)
        assert not compare([own], [other]).agrees, "with nothing but the own graph to hold it against it is refused"
        assert judged(own, other) == (True, "")
    refused, why = judged(own, rounded(3e-4, 2))
    assert not refused
    assert "of its size" in why


def test_what_is_close_to_the_own_graph_may_still_be_too_far_from_the_truth() -> None:
    own, other = rounded(1e-7, 1), rounded(5e-5, 2)
    assert compare([own], [other]).agrees
    refused, why = judged(own, other)
    assert not refused
    assert "from float64" in why
    assert judged(own, rounded(3e-6, 2)) == (True, ""), "an own graph that is almost exact refuses nobody for that"


def test_one_wrong_value_and_a_drift_of_all_are_found() -> None:
    own = rounded(1e-5, 1)
    wrong, drifted = own.copy(), (TRUTH + 1e-5 * np.abs(TRUTH).max(axis=0)).astype(np.float32)
    wrong[40, 3] += 1e-4
    assert "deviates by" in judged(own, wrong)[1]
    assert "on average" in judged(own, drifted)[1]


def test_of_some_rows_the_truth_and_of_the_others_the_own_graph_is_the_measure() -> None:
    own = rounded(1.5e-4, 1)
    assert judged(own, rounded(1.5e-4, 2), TRUTH[:16]) == (True, "")
    wrong = rounded(1.5e-4, 2)
    wrong[60] += 0.003
    assert "of its size" in judged(own, wrong, TRUTH[:16])[1]


def test_without_a_truth_the_own_graphs_noise_is_allowed_besides() -> None:
    none = TRUTH[:0]
    own = rounded(1e-7, 1)
    other = own + np.float32(1.5e-4) * np.abs(own).max(axis=0)
    assert not judged(own, other, none)[0]
    assert judged(own, other, none, noise=1e-4)[0]


def test_errors_are_told_in_units_of_the_spread() -> None:
    own, other = rounded(1e-6, 1), rounded(2e-6, 2)
    found = compare([own], [other], bounds=bounds([own], [TRUTH], []))
    assert found.true_error == pytest.approx(np.abs((other - TRUTH) / own.std(axis=0)).max(), rel=1e-3)
    assert found.own_error == pytest.approx(np.abs((own - TRUTH) / own.std(axis=0)).max(), rel=1e-3)
    assert compare([own], [other]).true_error is None


def test_another_function_is_no_truth() -> None:
    own = rounded(1e-6, 1)
    assert no_measure([own], [TRUTH]) == ""
    assert no_measure([own], [TRUTH[:8]]) == ""
    assert "is another one" in no_measure([own], [TRUTH * 1.05])
    assert "has the shape" in no_measure([own], [TRUTH[:, :5]])
    astray, infinite = TRUTH.copy(), TRUTH.copy()
    astray[7] += 5e-3
    infinite[7, 0] = np.inf
    assert "some rows of output 0 go another way" in no_measure([own], [astray])
    assert "not finite" in no_measure([own], [infinite])


def test_a_tolerance_decides_executors_in_float32() -> None:
    own, other = rounded(1e-7, 1), rounded(1e-3, 2)
    held = bounds([own], [TRUTH], [])
    assert compare([own], [other], tolerance=0.05, bounds=held).agrees
    assert "1e-06 is allowed" in compare([own], [other], tolerance=1e-6, bounds=held).why
    labels = own.argmax(axis=1)
    assert not compare([own, labels], [own, labels + 1], tolerance=0.05).agrees


def test_rows_that_hurt_may_differ_where_the_own_graph_is_no_closer_to_the_truth() -> None:
    truth = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    own, other = truth.astype(np.float32), truth.astype(np.float32)
    own[1, 0] += 0.1
    assert "of its size" in differs([own], [other])
    assert differs([own], [other], truth=[truth]) == ""
    other[2, 1] += 0.1  # of this row the own graph is right
    assert "of its size" in differs([own], [other], truth=[truth])
    overflown = own.copy()
    overflown[0] = np.inf
    assert "not finite" in differs([overflown], [own], truth=[truth]), "what the model itself gives counts"


def test_integers_are_equal_to_the_own_graphs() -> None:
    labels = TRUTH.argmax(axis=1)
    own = rounded(1e-6, 1)
    held = bounds([own, labels], [TRUTH, labels], [0.0, 0.0])
    assert [bound.truth is None for bound in held] == [False, True]
    assert compare([own, labels], [own, labels], bounds=held).agrees
    assert "output 1 differs" in compare([own, labels], [own, labels + 1], bounds=held).why


def test_what_the_gate_allows_is_never_less_than_the_online_checks_bound() -> None:
    assert bounds([rounded(1e-6, 1)], [TRUTH], [])[0].apart == RELATIVE
    assert bounds([rounded(1.5e-4, 1)], [TRUTH], [])[0].apart > 2.4e-4
