"""Rows that an executor is not trusted with go to the model's own graph, each for itself."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.executors.guarded import InputRange, run_guarded
from tasks.protocol.signature import Arrays


class Recorded:
    """A model that adds a number, and remembers how many rows it was given."""

    def __init__(self, added: float) -> None:
        self.added = added
        self.rows: list[int] = []

    def __call__(self, arrays: Arrays) -> Arrays:
        self.rows.append(len(arrays["x"]))
        return {"y": arrays["x"] + np.float32(self.added)}


def rows(*first: float) -> Arrays:
    return {"x": np.array([[value, 1.0] for value in first], np.float32), "id": np.arange(len(first))}


@pytest.mark.parametrize(
    ("limits", "first", "by_own"),
    [
        (InputRange(), (1.0, np.nan, 1e30, 1e-40), 0),
        (InputRange(1e3), (1.0, -1000.0, 7.0), 0),
        (InputRange(1e3), (1.0, 1001.0, np.nan, -np.inf, *range(9)), 3),
        (InputRange(1e3, tiny=False), (1.0, 1e-40, 0.0, 2e3, *range(9)), 2),
        (InputRange(1e3, integers=7), tuple(map(float, range(10))), 2),  # the ids 8 and 9
        (InputRange(None, tiny=False), (1e30, 1e-40, 0.0, 1e9), 1),
    ],
)
def test_rows_beyond_the_limits_go_to_the_own_graph_alone(
    limits: InputRange, first: tuple[float, ...], by_own: int
) -> None:
    run, own = Recorded(0.25), Recorded(0.5)
    arrays = rows(*first)
    outputs = run_guarded(run, own, arrays, limits)
    assert own.rows == ([by_own] if by_own else [])
    added = np.nan_to_num(outputs["y"][:, 1] - arrays["x"][:, 1])
    assert np.count_nonzero(added == 0.5) == by_own
    assert np.count_nonzero(added == 0.25) == len(first) - by_own


def test_the_executor_does_not_run_for_nothing() -> None:
    run, own = Recorded(0.25), Recorded(0.5)
    run_guarded(run, own, rows(np.nan, np.inf, 1.0, 2.0), InputRange(1e3))
    assert (run.rows, own.rows) == ([], [4])


def test_outputs_that_are_not_finite_are_looked_at_again() -> None:
    own = Recorded(0.5)

    def overflows(arrays: Arrays) -> Arrays:
        outputs = np.where(arrays["x"] > 88, np.inf, arrays["x"])
        outputs.flags.writeable = False
        return {"y": outputs}

    outputs = run_guarded(overflows, own, rows(1.0, 100.0), InputRange(1e3))
    assert outputs["y"].tolist() == [[1.0, 1.0], [100.5, 1.5]]
    assert own.rows == [1]


def test_outputs_of_another_shape_are_all_the_own_graphs() -> None:
    def wide(arrays: Arrays) -> Arrays:
        return {"y": np.zeros((len(arrays["x"]), 5), np.float32)}

    outputs = run_guarded(wide, Recorded(0.5), rows(1.0, np.nan), InputRange(1e3))
    assert outputs["y"].shape == (2, 2)
