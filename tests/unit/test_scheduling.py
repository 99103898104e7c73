"""The producer's pure middle: window, placement, handover, and streams as chunks."""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import count, cycle, pairwise
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.job.chunk_feeds import BatchFeed, SourceFeed
from producer.job.part_queue import PartQueue
from producer.rows.part import Part
from producer.rows.readers import BatchReader
from producer.scheduling.chunk_sizer import Chunk
from producer.scheduling.load_balancer import LoadBalancer
from producer.scheduling.model_pinning import pin, refs, usable
from producer.scheduling.window import CHUNKS_PER_SLOT, MAX_BYTES, Window
from producer.sources import from_arrays, from_rows
from tasks.datasets.rebatcher import Rebatcher, skip_rows
from tasks.protocol.messages import MESSAGE_VERSION
from tasks.protocol.records import ModelInfo, SlotRecord
from tests.waiting import wait_until
from worker_config.broker import queue_of
from worker_config.errors import InputError, NoWorkerError, UnknownModelError


def slot(worker: str, ready_at: float = 0.0, **digests: str) -> SlotRecord:
    models = [ModelInfo(name, digest, 64, [], [], 0.0, 0) for name, digest in digests.items()]
    return SlotRecord(worker, 0, 1, ready_at, queue_of(digests), models, message_version=MESSAGE_VERSION)


@pytest.mark.parametrize(
    ("theirs", "ours", "why"),
    [
        ([], [], ""),
        (["a"], ["a"], ""),
        (["b", "a"], ["a", "b"], ""),
        (["a"], ["a", "b"], ""),
        (["a"], [], "believe signed messages alone; set CELERIAC_SIGNING_KEY here"),
        ([], ["a"], "the workers have no key; set CELERIAC_SIGNING_KEY there"),
        (["a"], ["b"], "has other keys here than the workers have"),
        (["a"], ["b", "a"], "has other keys here than the workers have"),
        (["a", "b"], ["b"], "has other keys here than the workers have"),
    ],
)
def test_a_job_goes_to_workers_that_believe_it_and_that_it_believes(
    theirs: list[str], ours: list[str], why: str
) -> None:
    slots = [msgspec.structs.replace(slot("w@h:1", a="1"), key_ids=theirs)]
    if not why:
        assert [info.name for info in pin(["a"], slots, ours)] == ["a"]
    else:
        with pytest.raises(NoWorkerError, match=why):
            pin(["a"], slots, ours)


def part(index: int, rows: int = 1) -> Part:
    return Part(index, index * rows, (index + 1) * rows, np.zeros((rows, 8)))


LARGE = 2**20  # a chunk that does not ride in its message


def fill(window: Window, chunk_bytes: int, held_back: int = 0) -> int:
    """Send what the window admits; return how many chunks."""
    for index in count():
        if not window.admits(held_back, chunk_bytes):
            return index
        window.sent(chunk_bytes)
    raise AssertionError


@given(
    slots=st.integers(0, 9),
    sizes=st.lists(st.integers(1, 2 * MAX_BYTES), max_size=60),
    held_back=st.integers(0, 9),
)
def test_the_window_bounds_chunks_and_bytes(slots: int, sizes: list[int], held_back: int) -> None:
    window, in_flight = Window(slots), 0
    for size in sizes:
        if window.admits(held_back, size):
            window.sent(size)
            in_flight += size
    assert len(window) + held_back <= max(max(1, slots) * CHUNKS_PER_SLOT, held_back)
    assert in_flight <= MAX_BYTES or len(window) == 1
    assert window.bytes_in_flight == in_flight


def test_a_full_window_admits_again_when_half_of_it_is_answered() -> None:
    window = Window(1)
    assert fill(window, LARGE) == CHUNKS_PER_SLOT
    window.answered(LARGE, 1.0)
    assert len(window) == CHUNKS_PER_SLOT - 1
    assert not window.admits(0, LARGE)
    window.answered(LARGE, 1.0)
    assert window.admits(0, LARGE)
    assert window.bytes_in_flight == LARGE * (CHUNKS_PER_SLOT - 2)


@pytest.mark.parametrize(("seconds", "per_slot"), [(1.0, 4), (0.125, 8), (1e-6, 16)])
def test_short_chunks_that_ride_in_their_messages_may_be_more(seconds: float, per_slot: int) -> None:
    window = Window(2)
    window.sent(1)
    window.answered(1, seconds)
    assert fill(window, 64) == 2 * per_slot
    other = Window(2)
    other.sent(1)
    other.answered(1, seconds)
    assert fill(other, LARGE) == 2 * CHUNKS_PER_SLOT


def test_every_slot_gets_its_share_of_the_bytes() -> None:
    assert fill(Window(8), int(Window(8).chunk_bytes)) >= 2 * 8


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
    told = (
        r"model 'some/digits.keras' \(did you mean 'digits'\?\); .* file is for .* without a broker; there are: digits"
    )
    with pytest.raises(UnknownModelError, match=told):
        pin(["some/digits.keras"], [slot("w1", digits="1")])
    told = "no worker holds a and b together: w1@h holds a, w2@h holds b, w3@h holds none; start one that holds"
    with pytest.raises(NoWorkerError, match=f"{told} "):
        pin(["a", "b"], [slot("w1@h:1", a="1"), slot("w2@h:2", b="1"), slot("w3@h:3", c="1")])
    with pytest.raises(NoWorkerError, match=r"w4 holds a and 3 more; start"):
        pin(["a", "b"], [slot(f"w{number}:1", **{name: "1"}) for number, name in enumerate("aaaaabbb")])


@pytest.mark.parametrize(
    ("slots", "expected"),
    [
        ([slot("w1", a="1"), slot("w2", a="2"), slot("w3", a="2")], ["2"]),
        ([slot("w1", a="1"), slot("w2", a="1"), slot("w3", 9.0, a="2")], ["1"]),
        ([slot("w1", 1.0, a="1"), slot("w2", 2.0, a="2")], ["2"]),
        ([slot("w1", 2.0, a="1"), slot("w2", 1.0, a="2")], ["1"]),
        # Versions count that one slot holds together.
        ([slot("w1", a="1", b="1"), slot("w2", a="2"), slot("w3", b="2")], ["1", "1"]),
        ([slot("w1", a="1", b="1"), slot("w2", a="2", b="1"), slot("w3", a="2", b="1")], ["2", "1"]),
    ],
)
def test_a_job_is_pinned_to_the_version_that_most_slots_hold_else_the_newest(
    slots: list[SlotRecord], expected: list[str]
) -> None:
    infos = pin(["a", "b"][: len(expected)], slots)
    assert [info.digest for info in infos] == expected
    assert usable(slots, refs(infos))


def test_a_queue_is_that_of_a_set_of_models_in_their_versions() -> None:
    assert re.fullmatch("celeriac[.][0-9a-f]{12}", queue_of({"a": "1"}))
    assert queue_of({"a": "1", "b": "2"}) == queue_of({"b": "2", "a": "1"})
    sets = [{"a": "1"}, {"a": "2"}, {"b": "1"}, {"a": "1", "b": "1"}, {"a": "1", "b": "2"}, {"a": "2", "b": "1"}]
    assert len(set(map(queue_of, sets))) == len(sets)


def test_chunks_are_spread_over_queues_in_proportion_to_slots() -> None:
    large, small = slot("w1", a="1"), slot("w2", a="1", b="1")
    queues = LoadBalancer([large, large, large, small])
    assert Counter(queues.choose() for _ in range(12)) == {large.queue: 9, small.queue: 3}
    for _ in range(3):
        queues.closed(small.queue)
    assert [queues.choose() for _ in range(3)] == [small.queue] * 3


def test_a_chunk_goes_to_no_queue_of_a_server_that_is_away() -> None:
    here, there = slot("w1", a="1"), slot("w2", a="1", b="1")
    away = {there.queue}
    queues = LoadBalancer([here, there, there], lambda queue: queue not in away)
    assert {queues.choose() for _ in range(20)} == {here.queue}
    away.clear()
    assert queues.choose() == there.queue
    away |= {here.queue, there.queue}
    assert queues.choose() in away  # somebody has to wait for one of them


def test_chunks_go_to_queues_of_slots_that_are_up_or_were_up_last() -> None:
    old, new = slot("w1", a="1"), slot("w2", a="1", b="1")
    queues = LoadBalancer([old])
    queues.update([])
    assert queues.choose() == old.queue
    queues.update([new])
    assert {queues.choose() for _ in range(9)} == {new.queue}
    queues.closed(old.queue)
    queues.update([old, new])
    assert [queues.choose() for _ in range(9)] == [old.queue] * 9


def test_parts_come_before_the_error_that_ended_them() -> None:
    part_queue = PartQueue()
    part_queue.give(part(0))
    part_queue.close(InputError("why"))
    taken = part_queue.take()
    assert taken is not None
    assert taken.index == 0
    with pytest.raises(InputError, match="why"):
        part_queue.take()


def test_parts_that_nobody_takes_close_the_room_until_one_is_taken() -> None:
    part_queue = PartQueue(max_bytes=100)
    part_queue.give(part(0))
    assert part_queue.has_room()
    part_queue.give(part(1))
    assert not part_queue.has_room()
    assert not part_queue.wake.is_set()
    part_queue.take()
    assert part_queue.has_room()
    assert part_queue.wake.is_set()


def test_who_has_taken_parts_throws_them_away_before_the_first_one_that_comes_once_more() -> None:
    part_queue, seen = PartQueue(), list[object]()
    part_queue.give(part(0))
    part_queue.give(part(1))
    assert part_queue.take() is not None
    assert not part_queue.void(), "who took it cannot throw it away"
    part_queue.on_restart = lambda: seen.append("restart")
    assert part_queue.void()
    part_queue.restart()
    part_queue.give(part(0))
    part_queue.close()
    while (taken := part_queue.take()) is not None:
        seen.append(taken.index)
    assert seen == ["restart", 0], "the part that nobody had taken came once"


def test_parts_that_nobody_has_taken_can_come_once_more_whoever_takes_them() -> None:
    part_queue = PartQueue()
    part_queue.give(part(0))
    assert part_queue.void()
    part_queue.restart()
    part_queue.give(part(7))
    taken = part_queue.take()
    assert taken is not None
    assert taken.index == 7


def feed_of(rows: Iterable[Any], max_delay: float | None = None, batch_rows: int = 1) -> BatchFeed:
    source = from_rows(rows, batch_rows=batch_rows, label="stream")
    return BatchFeed(source, check=lambda rows: None, blank={"x": np.zeros((0, 2))}, max_delay=max_delay)


def next_chunk(feed: BatchFeed, rows: int) -> tuple[Chunk, Any]:
    return wait_until(lambda: feed.next_chunk(rows), "a chunk is there")


def test_a_stream_s_rows_become_full_chunks_and_a_rest() -> None:
    feed = feed_of(np.full(2, row) for row in range(7))
    chunks = [next_chunk(feed, 3) for _ in range(3)]
    assert [(chunk.index, chunk.start, chunk.stop) for chunk, _ in chunks] == [(0, 0, 3), (1, 3, 6), (2, 6, 7)]
    np.testing.assert_array_equal(np.concatenate([rows for _, rows in chunks])[:, 0], range(7))
    wait_until(feed.exhausted, "the feed knows that it has ended")


def test_a_stream_without_rows_is_one_chunk_of_none() -> None:
    feed = feed_of(iter([]))
    chunk, rows = next_chunk(feed, 3)
    assert (chunk.rows, rows["x"].shape) == (0, (0, 2))
    wait_until(feed.exhausted, "the feed knows that it has ended")


def test_an_endless_stream_is_read_no_further_than_two_chunks_ahead() -> None:
    read: list[int] = []

    def endless() -> Iterator[Any]:
        for row in count():
            read.append(row)
            yield np.zeros(1)

    feed = feed_of(endless())
    next_chunk(feed, 4)
    wait_until(lambda: len(read) >= 12, "two chunks are read ahead")
    assert len(read) <= 4 + 2 * 4 + 1
    feed.close()


def test_a_row_that_waited_long_enough_leaves_alone() -> None:
    forever = threading.Event()

    def one_and_then_nothing() -> Iterator[Any]:
        yield np.ones(2)
        forever.wait()

    chunk, _ = next_chunk(feed_of(one_and_then_nothing(), max_delay=0.01), 1000)
    assert chunk.rows == 1
    forever.set()


def test_an_iterable_that_raises_is_an_input_error_after_its_rows() -> None:
    def broken() -> Iterator[Any]:
        yield np.ones(2)
        raise ValueError("the disk is on fire")

    feed = feed_of(broken(), batch_rows=10)
    chunk, _ = next_chunk(feed, 10)
    assert chunk.rows == 1
    with pytest.raises(InputError, match="the disk is on fire"):
        wait_until(feed.exhausted, "the error comes")


def test_rows_that_no_model_takes_end_the_feed() -> None:
    def refuse(rows: object) -> None:
        raise InputError("no model takes these")

    feed = BatchFeed(from_rows(iter([np.ones(2)])), check=refuse, blank={}, max_delay=None)
    wait_until(lambda: feed.next_chunk(1) is None and feed._error, "the rows are refused")
    with pytest.raises(InputError, match="no model takes these"):
        feed.exhausted()


@given(rows=st.integers(0, 60), sizes=st.lists(st.integers(1, 9), min_size=1))
def test_any_split_of_any_number_of_rows_gives_each_row_once(rows: int, sizes: list[int]) -> None:
    feed, indexes, pieces = SourceFeed(from_arrays(np.arange(rows))), [], []
    for size in cycle(sizes):
        if (given_chunk := feed.next_chunk(size)) is None:
            break
        chunk, piece = given_chunk
        assert len(piece) == chunk.rows <= size
        indexes.append(chunk.index)
        pieces.append(piece)
    assert indexes == list(range(max(1, len(indexes))))
    np.testing.assert_array_equal(np.concatenate(pieces), np.arange(rows))
    assert feed.exhausted()
    assert feed.next_row == rows


@given(rows=st.integers(1, 40), data=st.data(), size=st.integers(1, 9))
def test_a_data_set_that_is_sliced_begins_at_any_row(rows: int, data: st.DataObject, size: int) -> None:
    first_row = data.draw(st.integers(1, rows), "first row")
    feed, chunks = SourceFeed(from_arrays(np.arange(rows)), first_row=first_row), []
    assert (feed.next_row, feed.exhausted()) == (first_row, first_row == rows)
    while given_chunk := feed.next_chunk(size):
        chunks.append(given_chunk)
    assert [chunk.index for chunk, _ in chunks] == list(range(len(chunks)))
    assert [(chunk.start, chunk.stop) for chunk, _ in chunks] == [(piece[0], piece[-1] + 1) for _, piece in chunks]
    np.testing.assert_array_equal(np.concatenate([[], *(piece for _, piece in chunks)]), np.arange(first_row, rows))
    assert (feed.next_row, feed.exhausted()) == (rows, True)


@pytest.mark.parametrize("known", [True, False], ids=["known length", "unknown length"])
@pytest.mark.parametrize("first_row", [1, 4, 5, 6, 9, 10])
def test_a_data_set_that_is_read_begins_at_any_row(first_row: int, known: bool) -> None:
    feed = begun_feed([np.arange(5), np.arange(0), np.arange(5, 10)], first_row, rows=10 if known else None)
    pieces: list[Any] = []
    while not exhausted(feed):
        if given_chunk := feed.next_chunk(3):
            pieces.append(given_chunk)
    chunks = [chunk for chunk, _ in pieces]
    assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
    assert [chunk.start for chunk in chunks] == list(range(first_row, 10, 3))
    np.testing.assert_array_equal(np.concatenate([[], *(rows for _, rows in pieces)]), np.arange(first_row, 10))
    assert feed.next_row == 10


@pytest.mark.parametrize("rows", [7, None])
@pytest.mark.parametrize("batches", [[], [np.arange(5)]], ids=["none", "some"])
def test_a_data_set_that_ends_before_the_first_row_is_told_with_both_numbers(
    batches: list[np.ndarray], rows: int | None
) -> None:
    feed = begun_feed(batches, 7, rows)
    assert wait_until(lambda: feed.next_chunk(3) is None and feed._ended, "the feed has ended")
    with pytest.raises(InputError, match=f"has {sum(map(len, batches))} rows, the job was to begin at row 7"):
        feed.exhausted()


def begun_feed(batches: list[np.ndarray], first_row: int, rows: int | None) -> BatchFeed:
    source = BatchReader("batches", rows, lambda: (batch for batch in batches))
    return BatchFeed(source, check=lambda rows: None, blank={}, first_row=first_row)


def exhausted(feed: BatchFeed) -> bool:
    return feed.exhausted() and feed.next_chunk(1) is None


@given(batches=st.lists(st.integers(0, 9), max_size=12), data=st.data())
def test_skipped_rows_are_the_first_ones(batches: list[int], data: st.DataObject) -> None:
    first_row = data.draw(st.integers(0, sum(batches)), "first row")
    rows, ends = np.arange(sum(batches)), np.cumsum([0, *batches])
    cut = [{"x": rows[start:stop]} for start, stop in pairwise(ends)]
    left = [batch["x"] for batch in skip_rows(cut, first_row, "batches")]
    assert len(left) == len(cut)
    np.testing.assert_array_equal(np.concatenate([rows[:0], *left]), rows[first_row:])


@given(batches=st.lists(st.integers(0, 9), max_size=12), cuts=st.lists(st.integers(1, 9), min_size=1, max_size=40))
def test_rows_cut_anew_are_the_same_rows(batches: list[int], cuts: list[int]) -> None:
    rows = np.arange(sum(batches))
    rebatcher, start = Rebatcher(), 0
    for size in batches:
        rebatcher.add({"x": rows[start : start + size], "y": rows[start : start + size] * 2.0})
        start += size
    taken = []
    for cut in cuts:
        if rebatcher.rows:
            piece, number = rebatcher.take(cut)
            assert number == len(piece["x"]) <= cut
            taken.append(piece)
    joined = np.concatenate([piece["x"] for piece in taken]) if taken else rows[:0]
    np.testing.assert_array_equal(joined, rows[: len(joined)])
    assert len(joined) + rebatcher.rows == len(rows)
    if not rebatcher.rows:
        assert rebatcher.bytes == 0


def test_rows_of_uneven_shape_stay_a_list() -> None:
    rebatcher = Rebatcher()
    rebatcher.add(np.zeros((2, 3)))
    rebatcher.add([np.zeros(4), np.zeros(5)])
    rows, number = rebatcher.take(3)
    assert number == 3
    assert [row.shape for row in rows] == [(3,), (3,), (4,)]
