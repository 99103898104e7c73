"""Rows as runs: there and back, and what no runs are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tasks.protocol.runs import mask_of_runs, rows_of_runs, runs_where


@pytest.mark.parametrize("text", ["", "0", "1", "1111", "0000", "0110", "10101", "0011011"])
def test_a_mask_is_the_same_after_it_was_runs(text: str) -> None:
    mask = np.array([one == "1" for one in text], np.bool_)
    runs = runs_where(mask)
    assert runs.dtype == np.int64
    assert mask_of_runs(runs, len(mask)).tolist() == mask.tolist()
    assert rows_of_runs(runs_where(mask, 7), int(mask.sum())).tolist() == (7 + np.flatnonzero(mask)).tolist()


def test_many_runs_are_as_few_numbers_as_they_can_be() -> None:
    mask = np.random.default_rng(0).random(10_000) < 0.9
    assert rows_of_runs(runs_where(mask, 2**40), int(mask.sum())).tolist() == (2**40 + np.flatnonzero(mask)).tolist()
    assert runs_where(np.ones(10**6, np.bool_), 5).tolist() == [[5, 5 + 10**6]]


@pytest.mark.parametrize(
    "runs",
    [
        [[0, 3]],  # other rows than there are
        [[0, 2**62], [2**62 + 1, 2**63 - 1]],
        [[-1, 3]],
        [[3, 1], [4, 10]],
        [[0, 2], [1, 3]],
        [[0, 2], [2, 4]],  # one run
        [[2, 4], [0, 2]],
        [0, 4],
        [[0, 2, 4]],
        [[0.0, 4.0]],
    ],
)
def test_what_are_no_runs_of_so_many_rows_is_refused_before_memory_is_taken(runs: Any) -> None:
    with pytest.raises(ValueError):
        rows_of_runs(np.array(runs), 4)


@pytest.mark.parametrize("runs", [[[0, 5]], [[3, 2**63 - 1]], [[-2, 1]], [[1, 1]]])
def test_places_that_an_array_has_not_are_refused(runs: Any) -> None:
    with pytest.raises(ValueError):
        mask_of_runs(np.array(runs), 4)
