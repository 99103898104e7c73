"""The producer's pure middle: window, placement, handover, and streams as chunks."""

from __future__ import annotations

import threading
from itertools import count

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.aggregator import Part
from producer.feeds import StreamFeed, stack_rows
from producer.handover import Handover
from producer.placement import pin, refs, usable
from producer.window import CHUNKS_PER_SLOT, MAX_BYTES, Window
from tasks.messages import ModelInfo, SlotRecord
from tests.waiting import wait_until
from worker_config.errors import InputError, ModelError, NoWorkerError, UnknownModelError


def slot(worker: str, **digests: str) -> SlotRecord:
    models = [ModelInfo(name, digest, 64, [], [], 0.0, 0) for name, digest in digests.items()]
    return SlotRecord(worker, 0, 1, 0.0, models)


def part(index: int, rows: int = 1) -> Part:
    return Part(index, index * rows, (index + 1) * rows, np.zeros((rows, 8)))


@given(slots=st.integers(0, 9), sizes=st.lists(st.integers(1, MAX_BYTES), max_size=60), held_back=st.integers(0, 9))
def test_the_window_bounds_chunks_and_bytes(slots: int, sizes: list[int], held_back: int) -> None:
    window, in_flight = Window(slots), 0
    for index, size in enumerate(sizes):
        if window.admits(held_back):
            window.sent(index, size)
            in_flight += size
    assert len(window) + held_back <= max(max(1, slots) * CHUNKS_PER_SLOT, held_back)
    assert in_flight < 2 * MAX_BYTES  # the last one may reach over


def test_an_answered_chunk_makes_room_once() -> None:
    window = Window(1)
    for index in range(CHUNKS_PER_SLOT):
        window.sent(index, 1)
    assert not window.admits(0)
    window.answered(0)
    window.answered(0)
    assert window.admits(0)
    assert len(window) == CHUNKS_PER_SLOT - 1


def test_a_job_is_pinned_to_what_the_slots_hold() -> None:
    slots = [slot("w1", a="1", b="2"), slot("w2", a="1"), slot("w3", b="2")]
    infos = pin(["a", "b"], slots)
    assert [info.digest for info in infos] == ["1", "2"]
    assert [held.worker for held in usable(slots, refs(infos))] == ["w1"]


def test_a_job_that_cannot_run_is_told_why() -> None:
    with pytest.raises(NoWorkerError, match="no worker is up"):
        pin(["a"], [])
    with pytest.raises(UnknownModelError, match="'c'; there are: a, b"):
        pin(["c"], [slot("w1", a="1", b="2")])
    with pytest.raises(ModelError, match="different versions of model 'a'"):
        pin(["a"], [slot("w1", a="1"), slot("w2", a="2")])
    with pytest.raises(NoWorkerError, match="a and b together"):
        pin(["a", "b"], [slot("w1", a="1"), slot("w2", b="1")])


def test_parts_come_before_the_error_that_ended_them() -> None:
    handover = Handover(on_taken=lambda: None)
    handover.give(part(0))
    handover.close(InputError("why"))
    taken = handover.take()
    assert taken is not None
    assert taken.index == 0
    with pytest.raises(InputError, match="why"):
        handover.take()


def test_parts_that_nobody_takes_close_the_room_until_one_is_taken() -> None:
    taken = threading.Event()
    handover = Handover(on_taken=taken.set, max_bytes=100)
    handover.give(part(0))
    assert handover.has_room()
    handover.give(part(1))
    assert not handover.has_room()
    handover.take()
    assert handover.has_room()
    assert taken.is_set()


def test_a_stream_s_rows_become_full_chunks_and_a_rest() -> None:
    feed = StreamFeed((np.full(2, row) for row in range(7)), chunk_rows=3, max_delay=60)
    chunks = [wait_until(feed.next_chunk, "a chunk is there") for _ in range(3)]
    assert [(chunk.index, chunk.start, chunk.stop) for chunk, _ in chunks] == [(0, 0, 3), (1, 3, 6), (2, 6, 7)]
    np.testing.assert_array_equal(np.concatenate([rows for _, rows in chunks])[:, 0], range(7))
    wait_until(feed.exhausted, "the feed knows that it has ended")


def test_an_endless_stream_is_read_no_further_than_two_chunks_ahead() -> None:
    read: list[int] = []

    def endless():  # type: ignore[no-untyped-def]
        for row in count():
            read.append(row)
            yield np.zeros(1)

    feed = StreamFeed(endless(), chunk_rows=4, max_delay=60)
    wait_until(lambda: len(read) >= 8, "two chunks are read")
    assert feed.next_chunk() is not None
    wait_until(lambda: len(read) >= 12, "one more is read")
    assert len(read) <= 4 + 2 * 4 + 1
    feed.close()


def test_a_row_that_waited_long_enough_leaves_alone() -> None:
    forever = threading.Event()

    def one_and_then_nothing():  # type: ignore[no-untyped-def]
        yield np.ones(2)
        forever.wait()

    feed = StreamFeed(one_and_then_nothing(), chunk_rows=1000, max_delay=0.01)
    chunk, _ = wait_until(feed.next_chunk, "the row leaves")
    assert chunk.rows == 1
    forever.set()


def test_an_iterable_that_raises_is_an_input_error_after_its_rows() -> None:
    def broken():  # type: ignore[no-untyped-def]
        yield np.ones(2)
        raise ValueError("the disk is on fire")

    feed = StreamFeed(broken(), chunk_rows=10, max_delay=60)
    chunk, _ = wait_until(feed.next_chunk, "the row leaves")
    assert chunk.rows == 1
    with pytest.raises(InputError, match="ValueError: the disk is on fire"):
        wait_until(feed.exhausted, "the error comes")


def test_rows_of_several_inputs_are_stacked_by_input() -> None:
    stacked = stack_rows([{"a": np.zeros(2), "b": 1}, {"a": np.ones(2), "b": 2}])
    assert stacked["a"].shape == (2, 2)
    assert stacked["b"].tolist() == [1, 2]
    assert [column.shape for column in stack_rows([(np.zeros(2), 1), (np.ones(2), 2)])] == [(2, 2), (2,)]


@pytest.mark.parametrize("rows", [[np.ones(2), np.ones(3)], [{"a": 1}, {"b": 1}], [(1, 2), (1,)]])
def test_rows_that_differ_are_an_input_error(rows: list[object]) -> None:
    with pytest.raises(InputError, match="do not fit together"):
        stack_rows(rows)
