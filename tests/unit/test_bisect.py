"""Bad rows are found by halving."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.recovery.bisect import halved, one_failed

Piece = tuple[int, int, bool]


def run_over(start: int, stop: int, bad: set[int]) -> tuple[list[Piece], list[tuple[int, int]]]:
    """The pieces, each with whether it failed, and the calls."""
    calls = []

    def run(first: int, last: int) -> bool:
        calls.append((first, last))
        return not bad.isdisjoint(range(first, last))

    return list(halved(run, start, stop, failed=bool)), calls


def test_what_goes_through_is_run_once() -> None:
    pieces, calls = run_over(5, 105, set())
    assert pieces == [(5, 105, False)]
    assert calls == [(5, 105)]


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 8, 100])
def test_rows_that_are_all_bad_take_two_calls_each_but_one(rows: int) -> None:
    pieces, calls = run_over(3, 3 + rows, set(range(3, 3 + rows)))
    assert pieces == [(row, row + 1, True) for row in range(3, 3 + rows)]
    assert len(calls) == 2 * rows - 1


@pytest.mark.parametrize("rows", [1, 2, 3, 8, 13])
def test_one_bad_row_is_found_wherever_it_is(rows: int) -> None:
    for bad in range(rows):
        pieces, calls = run_over(0, rows, {bad})
        assert [piece for piece in pieces if piece[2]] == [(bad, bad + 1, True)]
        assert [row for start, stop, _ in pieces for row in range(start, stop)] == list(range(rows))
        assert len(calls) <= 1 + 2 * math.ceil(math.log2(rows))


@given(rows=st.integers(1, 60), data=st.data())
def test_every_row_is_in_one_piece_in_order_and_every_bad_one_alone(rows: int, data: st.DataObject) -> None:
    bad = data.draw(st.sets(st.integers(0, rows - 1)))
    pieces, calls = run_over(0, rows, bad)
    assert [row for start, stop, _ in pieces for row in range(start, stop)] == list(range(rows))
    assert [start for start, _, failed in pieces if failed] == sorted(bad)
    assert all(stop - start == 1 for start, stop, failed in pieces if failed)
    assert len(calls) == len(set(calls)) <= 2 * rows - 1


@pytest.mark.parametrize("failed", [True, False])
def test_no_rows_are_one_call(failed: bool) -> None:
    assert list(halved(lambda *_: failed, 4, 4, failed=bool)) == [(4, 4, failed)]


@given(rows=st.integers(1, 60), data=st.data())
def test_the_first_row_that_fails_by_itself_takes_as_many_calls_as_there_are_halves(
    rows: int, data: st.DataObject
) -> None:
    bad, calls = data.draw(st.sets(st.integers(0, rows - 1), min_size=1)), []

    def run(start: int, stop: int) -> tuple[int, int] | None:
        calls.append(stop - start)
        return None if bad.isdisjoint(range(start, stop)) else (start, stop)

    assert one_failed(run, 0, rows, seconds=60) == (min(bad), min(bad) + 1)
    assert len(calls) <= math.ceil(math.log2(rows)) + 1
    assert sum(calls) <= rows + 1


def test_no_row_is_found_where_none_fails_by_itself_or_the_time_is_up() -> None:
    assert one_failed(lambda *_: None, 0, 100, seconds=60) is None
    calls: list[int] = []
    assert one_failed(lambda start, stop: calls.append(start) or stop, 0, 100, seconds=-1) is None  # type: ignore[func-returns-value]
    assert not calls
