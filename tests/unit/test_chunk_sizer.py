"""The size of chunks: small at first, then as long as wanted, within limits, and smaller at the end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.scheduling.chunk_sizer import CHUNK_SECONDS, FIRST_STEP_ROWS, GROWTH, MAX_CHUNK_BYTES, SLACK, ChunkSizer
from tasks.protocol.messages import StoreName
from worker_config.errors import UsageError

MANY = 10**9


def learnt(sizer: ChunkSizer, seconds_per_row: float, slots: int = 2) -> int:
    """The size that a sizer comes to, for a model of that speed."""
    for _ in range(30):
        rows = sizer.next_rows(MANY, slots)
        sizer.answered(rows, rows * seconds_per_row, output_bytes=0)
    return sizer.next_rows(MANY, slots)


def test_the_first_chunks_are_one_batch() -> None:
    assert ChunkSizer(batch_rows=64, row_bytes=8).next_rows(MANY, slots=2) == 64
    assert ChunkSizer(batch_rows=64, row_bytes=8).next_rows(None, slots=2) == 64


@pytest.mark.parametrize("seconds_per_row", [1e-5, 1e-4, 1e-3])
def test_a_chunk_comes_to_take_as_long_as_wanted(seconds_per_row: float) -> None:
    rows = learnt(ChunkSizer(batch_rows=10, row_bytes=8), seconds_per_row)
    assert rows % 10 == 0
    assert rows * seconds_per_row == pytest.approx(CHUNK_SECONDS, rel=0.05)


def test_a_known_speed_is_trusted_from_the_first_chunk() -> None:
    sizer = ChunkSizer(batch_rows=10, row_bytes=8, batch_seconds=CHUNK_SECONDS / 50)
    assert sizer.next_rows(MANY, slots=2) == 500
    sizer.answered(500, CHUNK_SECONDS / 100, output_bytes=0)
    assert sizer.next_rows(MANY, slots=2) == 50_000


@given(
    row_bytes=st.floats(1, MAX_CHUNK_BYTES),
    output_row_bytes=st.floats(0, MAX_CHUNK_BYTES),
    rows_travel=st.booleans(),
    share_bytes=st.integers(1, 4 * MAX_CHUNK_BYTES),
)
def test_rows_and_outputs_share_what_a_chunk_may_have(
    row_bytes: float, output_row_bytes: float, rows_travel: bool, share_bytes: int
) -> None:
    store: StoreName = "files" if rows_travel else "slices"
    sizer = ChunkSizer(4, row_bytes, output_row_bytes=output_row_bytes, store=store, batch_seconds=1e-9)
    rows = sizer.next_rows(MANY, slots=2, share_bytes=share_bytes)
    in_flight = rows * (output_row_bytes + (row_bytes if rows_travel else 0))
    largest = rows * max(row_bytes, output_row_bytes)
    assert rows == 1 or (in_flight <= share_bytes * SLACK * 1.001 and largest <= SLACK * MAX_CHUNK_BYTES)
    assert sizer.bytes_in_flight(rows) == pytest.approx(in_flight, abs=1)


def test_the_size_of_outputs_is_learnt_from_the_answers() -> None:
    sizer = ChunkSizer(batch_rows=1, row_bytes=1)
    sizer.answered(10, 1e-9, output_bytes=10 * MAX_CHUNK_BYTES // 4)
    assert sizer.next_rows(MANY, slots=1) == 4
    assert sizer.bytes_in_flight(4) == MAX_CHUNK_BYTES + 4


def test_a_slow_model_gets_one_batch_at_a_time() -> None:
    assert learnt(ChunkSizer(batch_rows=64, row_bytes=8), seconds_per_row=1.0) == 64


def test_sizes_grow_step_by_step() -> None:
    sizer = ChunkSizer(batch_rows=64, row_bytes=8)
    sizer.answered(64, 1e-6, output_bytes=0)
    assert sizer.next_rows(MANY, slots=2) == GROWTH * 64


@given(row_bytes=st.floats(1, 10 * MAX_CHUNK_BYTES), batch_rows=st.integers(1, 500))
def test_no_chunk_has_more_bytes_than_allowed_unless_one_row_has(row_bytes: float, batch_rows: int) -> None:
    rows = learnt(ChunkSizer(batch_rows, row_bytes), seconds_per_row=1e-9)
    assert rows == 1 or rows * row_bytes <= SLACK * MAX_CHUNK_BYTES
    assert rows <= batch_rows or rows % batch_rows == 0


def test_the_size_of_rows_is_learnt_from_what_was_sent() -> None:
    sizer = ChunkSizer(batch_rows=1)
    sizer.sent(rows=10, payload_bytes=10 * MAX_CHUNK_BYTES // 4)
    assert learnt(sizer, seconds_per_row=1e-9) == 4


@given(rows=st.integers(1, 10**6), slots=st.integers(1, 8), batch_rows=st.integers(1, 64))
def test_chunks_shrink_at_the_end_and_give_every_row_once(rows: int, slots: int, batch_rows: int) -> None:
    sizer = ChunkSizer(batch_rows, row_bytes=8)
    sizes, left = [], rows
    while left:
        size = min(left, sizer.next_rows(left, slots))
        sizer.answered(size, size * 1e-4, output_bytes=0)
        sizes.append(size)
        left -= size
    assert sum(sizes) == rows
    largest = sizes.index(max(sizes))
    assert sizes[largest:] == sorted(sizes[largest:], reverse=True)


def test_the_caller_s_own_choice_is_all_that_counts() -> None:
    assert learnt(ChunkSizer(64, 8, fixed_rows=7), seconds_per_row=1e-9) == 7
    with pytest.raises(UsageError, match="chunk_rows is 0"):
        ChunkSizer(64, 8, fixed_rows=0)


def test_the_first_chunks_of_a_function_are_a_few_rows() -> None:
    sizer = ChunkSizer(1, 8, first_rows=FIRST_STEP_ROWS)
    assert sizer.next_rows(MANY, slots=2) == FIRST_STEP_ROWS
    assert sizer.next_rows(4, slots=2) == 1
    assert ChunkSizer(64, 8, first_rows=FIRST_STEP_ROWS).next_rows(MANY, slots=2) == 64


def test_chunks_take_as_long_as_is_asked_for() -> None:
    def rows(seconds: float) -> int:
        sizer = ChunkSizer(1, 8, first_rows=FIRST_STEP_ROWS, chunk_seconds=seconds)
        return learnt(sizer, seconds_per_row=0.001)

    assert (rows(0.5), rows(0.02)) == (500, 20)
    for seconds in (0, -1.0, float("inf"), float("nan")):
        with pytest.raises(UsageError, match=r"chunk_seconds is .*: it must be more than 0, and not endless"):
            ChunkSizer(1, 8, chunk_seconds=seconds)


def test_the_last_chunks_are_not_of_single_rows() -> None:
    sizer = ChunkSizer(1, 8)
    full = learnt(sizer, seconds_per_row=CHUNK_SECONDS / 80)
    assert full == 80
    assert [sizer.next_rows(left, slots=2) for left in (400, 160, 44, 12, 1)] == [80, 40, 11, 10, 10]
