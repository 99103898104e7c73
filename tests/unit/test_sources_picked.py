"""Some rows of any data set are a data set; rows that follow each other are taken at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.sources import BatchSource, Source, from_arrays, from_batches
from producer.sources.picked import pick
from tasks.datasets.columns import runs_of
from worker_config.errors import InputError

ROWS = 12
TREES: dict[str, Any] = {
    "array": np.arange(ROWS * 2).reshape(ROWS, 2),
    "dict": {"a": np.arange(ROWS), "t": np.array([f"w{row}" for row in range(ROWS)], object)},
    "tuple": (np.arange(ROWS), np.arange(ROWS) * 0.5),
}


def rows_of(tree: Any, wanted: Any) -> Any:
    if isinstance(tree, dict):
        return {name: array[wanted] for name, array in tree.items()}
    return tuple(array[wanted] for array in tree) if isinstance(tree, tuple) else tree[wanted]


@given(wanted=st.sets(st.integers(0, ROWS - 1)), kind=st.sampled_from(list(TREES)), data=st.data())
def test_rows_that_are_taken_by_slices(wanted: set[int], kind: str, data: st.DataObject) -> None:
    numbers = np.array(sorted(wanted), np.int64)
    source = pick(from_arrays(TREES[kind]), numbers)
    assert isinstance(source, Source)
    assert (source.rows, source.path) == (len(wanted), None)
    start = data.draw(st.integers(0, len(wanted)))
    stop = data.draw(st.integers(start, len(wanted)))
    np.testing.assert_equal(source.take(start, stop), rows_of(TREES[kind], numbers[start:stop]))
    with pytest.raises(InputError, match="no rows"):
        source.take(0, len(wanted) + 1)


@given(wanted=st.sets(st.integers(0, ROWS - 1)), kind=st.sampled_from(list(TREES)), batch_rows=st.integers(1, ROWS))
def test_rows_that_are_read_in_order_and_no_further_than_needed(wanted: set[int], kind: str, batch_rows: int) -> None:
    numbers, read = np.array(sorted(wanted), np.int64), []

    def batches() -> Iterator[Any]:
        for start in range(0, ROWS, batch_rows):
            read.append(start)
            yield rows_of(TREES[kind], slice(start, start + batch_rows))

    source = pick(from_batches(batches()), numbers)
    assert isinstance(source, BatchSource)
    assert source.rows == len(wanted)
    found = list(source.batches())
    for position, expected in enumerate(_leaves(rows_of(TREES[kind], numbers)) if wanted else ()):
        np.testing.assert_array_equal(np.concatenate([_leaves(batch)[position] for batch in found]), expected)
    assert read[-1:] <= [max(wanted, default=0)]


def _leaves(tree: Any) -> list[Any]:
    return list(tree.values()) if isinstance(tree, dict) else list(tree) if isinstance(tree, tuple) else [tree]


def test_rows_of_uneven_shape_stay_so() -> None:
    batches = iter([[np.zeros(1), np.ones(2), np.ones(3)], np.full((2, 4), 7.0)])
    first, second = pick(from_batches(batches), np.array([1, 2, 4])).batches()  # type: ignore[union-attr]
    assert [len(row) for row in first] == [2, 3]
    np.testing.assert_array_equal(second, [[7.0] * 4])


def test_numbers_as_runs() -> None:
    assert runs_of(np.array([], np.int64)) == []
    assert runs_of(np.array([3])) == [(3, 4)]
    assert runs_of(np.array([0, 1, 2, 5, 7, 8])) == [(0, 3), (5, 6), (7, 9)]
