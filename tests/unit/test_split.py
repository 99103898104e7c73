"""Cutting a data set into chunks."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.split import CHUNKS_PER_SLOT, MAX_CHUNK_BYTES, Chunk, choose_chunk_rows, count_chunks, split
from worker_config.errors import UsageError


@given(rows=st.integers(0, 2000), chunk_rows=st.integers(1, 2100))
def test_chunks_follow_each_other_without_gap_or_overlap(rows: int, chunk_rows: int) -> None:
    chunks = list(split(rows, chunk_rows))

    assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
    assert [row for chunk in chunks for row in range(chunk.start, chunk.stop)] == list(range(rows))
    assert all(chunk.rows == chunk_rows for chunk in chunks[:-1])
    assert len(chunks) == count_chunks(rows, chunk_rows)


def test_zero_rows_give_one_empty_chunk() -> None:
    assert list(split(0, 256)) == [Chunk(0, 0, 0)]


def test_the_last_chunk_is_shorter() -> None:
    assert list(split(5, 2)) == [Chunk(0, 0, 2), Chunk(1, 2, 4), Chunk(2, 4, 5)]


def test_chunks_are_made_one_by_one() -> None:
    assert list(itertools.islice(split(10**18, 1), 2)) == [Chunk(0, 0, 1), Chunk(1, 1, 2)]


@pytest.mark.parametrize("chunk_rows", [0, -1])
def test_chunks_without_rows_are_refused_at_the_call(chunk_rows: int) -> None:
    with pytest.raises(UsageError, match="chunk_rows"):
        split(10, chunk_rows)


@given(
    rows=st.integers(0, 10**9),
    row_bytes=st.floats(0, 10**8),
    slots=st.integers(1, 500),
    batch_rows=st.integers(1, 5000),
)
def test_a_chosen_size_keeps_every_limit(rows: int, row_bytes: float, slots: int, batch_rows: int) -> None:
    chunk_rows = choose_chunk_rows(rows, row_bytes, slots, batch_rows)

    assert chunk_rows >= 1
    assert chunk_rows == 1 or chunk_rows * row_bytes <= MAX_CHUNK_BYTES
    assert chunk_rows <= batch_rows or chunk_rows % batch_rows == 0
    assert chunk_rows <= batch_rows or count_chunks(rows, chunk_rows) >= slots * CHUNKS_PER_SLOT
    if min(batch_rows, rows) * row_bytes <= MAX_CHUNK_BYTES:
        assert chunk_rows >= min(batch_rows, rows)


@pytest.mark.parametrize(
    ("rows", "row_bytes", "slots", "batch_rows", "expected"),
    [
        (0, 4.0, 2, 256, 1),
        (10, 4.0, 2, 256, 10),  # fewer rows than one batch
        (1797, 256.0, 2, 256, 256),  # a batch is the least, though slots get few chunks
        (100_000, 256.0, 2, 256, 6144),  # 6250 by the slots, 24 whole batches
        (10**9, 256.0, 2, 256, 16_384),  # by the bytes
        (1000, 2 * 2**20, 2, 256, 2),  # by the bytes, less than a batch
        (1000, 100 * 2**20, 2, 256, 1),  # a row larger than the limit
        (1000, 0.0, 1, 1, 125),  # rows of no bytes
    ],
)
def test_sizes_are_chosen_by_bytes_slots_and_batch(
    rows: int, row_bytes: float, slots: int, batch_rows: int, expected: int
) -> None:
    assert choose_chunk_rows(rows, row_bytes, slots, batch_rows) == expected


@pytest.mark.parametrize(
    "arguments", [(-1, 4, 1, 1), (1, -4, 1, 1), (1, float("nan"), 1, 1), (1, 4, 0, 1), (1, 4, 1, 0)]
)
def test_impossible_arguments_are_refused(arguments: tuple[int, float, int, int]) -> None:
    with pytest.raises(UsageError, match="must be at least"):
        choose_chunk_rows(*arguments)
