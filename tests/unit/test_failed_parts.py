"""Parts of which rows failed are gathered: in any order, compact where rows are skipped, full where they are filled."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.rows import drop_rows
from producer.rows.assemble import Join, ResultArrays
from producer.rows.drop_rows import close_gaps
from producer.rows.part import Part
from tasks.protocol.messages import OnError
from tests.failed_rows import POLICIES, kept, parts_with_failures, pick, record
from worker_config.errors import MessageError

ROWS = 23


def outputs_of(rows: int) -> dict[str, Any]:
    wide = np.arange(rows * 3, dtype=np.float32).reshape(rows, 3)
    return {"a": wide, "b": {"x": np.arange(rows), "t": np.array([f"w{row}" for row in range(rows)], object)}}


@given(
    data=st.data(),
    rows=st.integers(0, 40),
    chunk_rows=st.integers(1, 9),
    on_error=st.sampled_from(POLICIES),
    known=st.booleans(),
    first_row=st.integers(0, 10),
)
def test_parts_in_any_order_become_the_rows_that_were_predicted(
    data: st.DataObject, rows: int, chunk_rows: int, on_error: OnError, known: bool, first_row: int
) -> None:
    rows = max(rows, first_row)
    failed = data.draw(st.sets(st.integers(first_row, rows - 1))) if rows > first_row else set()
    outputs = outputs_of(rows)
    parts = parts_with_failures(outputs, rows, failed, on_error, chunk_rows, start=first_row)
    result = ResultArrays(rows if known else None, first_row=first_row)
    for part in data.draw(st.permutations(parts)):
        way = data.draw(st.sampled_from(["placed", "in part of its room", "as it is"]))
        if way == "placed":
            placed = result.place(part)
            assert (placed.failed, placed.skipped) == (part.failed, part.skipped)
            part = placed
        elif way == "in part of its room" and part.rows and (room := result.room(part.start, part.stop)) is not None:
            # Memory that is looked at is not always the place itself.
            last = pick(room, slice(part.stop - part.start - part.rows, None))
            _copy(part.outputs, last)
            part = Part(part.index, part.start, part.stop, last, part.failed, part.skipped)
        result.add(part)

    if known and rows == 0:
        return
    whole = kept(outputs, rows, failed, on_error)
    expected = pick(whole, slice(first_row, None))
    np.testing.assert_equal(result.result(), expected)
    np.testing.assert_equal(result.result(), expected)


def _copy(source: Any, target: Any) -> None:
    for name, array in source.items():
        if isinstance(array, dict):
            _copy(array, target[name])
        else:
            target[name][...] = array


def test_outputs_without_a_name_become_compact() -> None:
    whole = np.arange(ROWS)
    result = ResultArrays(ROWS)
    for part in parts_with_failures(whole, ROWS, {0, 7, 8, 22}, "skip"):
        result.add(part)
    np.testing.assert_array_equal(result.result(), np.delete(whole, [0, 7, 8, 22]))


@pytest.mark.parametrize("moved_bytes", [1, 16, 2**20])
@given(data=st.data(), rows=st.integers(0, 30))
def test_gaps_are_closed_in_place(moved_bytes: int, data: st.DataObject, rows: int) -> None:
    bounds = sorted(data.draw(st.sets(st.integers(0, rows))))
    holes = list(zip(bounds[::2], bounds[1::2], strict=False))
    array = np.arange(rows * 2).reshape(rows, 2)
    expected = np.delete(array, [row for start, stop in holes for row in range(start, stop)], axis=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drop_rows, "MOVED_BYTES", moved_bytes)
        closed = close_gaps(array, data.draw(st.permutations(holes)))
    np.testing.assert_array_equal(closed, expected)
    assert np.shares_memory(closed, array) or not closed.size


def test_rows_of_the_data_set_are_numbered() -> None:
    part = Part(1, 10, 15, np.arange(3), (record(10), record(13)), skipped=2)
    assert (part.rows, part.failed_rows, part.numbers().tolist()) == (3, 2, [11, 12, 14])
    part = Part(1, 10, 15, np.arange(5), (record(10, 12),))
    assert (part.rows, part.failed_rows, part.numbers().tolist()) == (5, 2, [10, 11, 12, 13, 14])
    with pytest.raises(MessageError, match=r"chunk 1 \(rows 10-15\) lacks 2 rows, 1 have a failure record"):
        Part(1, 10, 15, np.arange(3), (record(10),), skipped=2).numbers()


def test_the_model_that_is_left_out_takes_no_record_along() -> None:
    part = Part(0, 0, 3, {"a": np.arange(2), "b": np.arange(2)}, (record(1),), skipped=1)
    assert part.without({"b"}) == Part(0, 0, 3, {"a": part.outputs["a"]}, (record(1),), 1)  # type: ignore[index]


def test_the_join_keeps_what_failed() -> None:
    join = Join()
    assert join.add(Part(0, 0, 3, np.arange(2), (record(1),), 1))
    (part,) = join.pop_ready()
    assert (part.failed, part.skipped, part.rows) == ((record(1),), 1, 2)
    with pytest.raises(MessageError, match="must have 2 rows"):
        join.add(Part(1, 3, 6, np.arange(3), (record(4),), 1))
