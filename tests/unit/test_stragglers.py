"""Chunks whose answer is overdue: those that later ones have overtaken for long, by the times that chunks took."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from producer.job.dispatcher import OpenChunk
from producer.scheduling.stragglers import (
    AGAIN_SECONDS,
    LEAST_KNOWN,
    PATIENCE,
    SLACK_SECONDS,
    UNKNOWN_SECONDS,
    Stragglers,
)
from tasks.protocol.messages import MESSAGE_VERSION, ChunkMessage, InlineRef, ModelRef

ROWS = 8


@dataclass
class Sent:
    queue: str = "a"
    rows: int = ROWS
    times_sent: int = 1
    came_back: int = 0


def opened(*indexes: int, queue: str = "a") -> dict[int, Sent]:
    return {index: Sent(queue) for index in indexes}


def test_nothing_is_late_before_a_later_chunk_is_answered() -> None:
    late = Stragglers()
    for index in range(LEAST_KNOWN):
        late.answered(index, Sent("a"), 0.5, 1.0 + index, opened(7, 8))
    assert late.overdue(opened(7, 8), 1_000.0) == []


def test_a_chunk_that_later_ones_have_overtaken_is_late_by_the_times_of_others() -> None:
    late = Stragglers()
    waiting = opened(3, 9)
    for index in range(4, 8):
        late.answered(index, Sent("a"), 0.5, 10.0, waiting)
    assert late.limit_seconds(ROWS) == pytest.approx(0.5 + 0.6 + SLACK_SECONDS)
    # The later one was begun half a second before its answer.
    assert late.overdue(waiting, 9.5 + 1.3) == []
    assert late.overdue(waiting, 9.5 + 1.5) == [3]


def test_slow_chunks_have_patience_with_slow_ones() -> None:
    late = Stragglers()
    for index, seconds in enumerate([1.0] * 8 + [9.0] * 2):
        late.answered(index, Sent("a"), seconds, 10.0, {})
    assert late.limit_seconds(ROWS) > 10


def test_chunks_that_grow_have_so_much_longer() -> None:
    late = Stragglers()
    waiting = {9: Sent(rows=10 * ROWS), 10: Sent()}
    for index in range(11, 17):
        late.answered(index, Sent(), 0.1, 10.1, waiting)
    assert late.limit_seconds(10 * ROWS) == pytest.approx(10 * 0.22 + SLACK_SECONDS)
    assert late.overdue(waiting, 10.0 + 1.1) == [10]
    assert late.overdue(waiting, 10.0 + 2.6) == [9, 10]
    for index in range(17, 40):  # until most are as large
        late.answered(index, Sent(rows=10 * ROWS), 1.0, 20.0, {})
    assert late.limit_seconds(10 * ROWS) == pytest.approx(2.2 + SLACK_SECONDS)


def test_chunks_of_another_queue_tell_nothing() -> None:
    late = Stragglers()
    waiting = {1: Sent("b"), 2: Sent("a")}
    for index in range(3, 8):
        late.answered(index, Sent("a"), 0.1, 10.0, waiting)
    assert late.overdue(waiting, 100.0) == [2]


@pytest.mark.parametrize("seconds", [1.0, 0.001])
def test_each_copy_makes_the_next_one_wait_longer_and_for_seconds_however_short_chunks_are(seconds: float) -> None:
    late = Stragglers()
    waiting = opened(0)
    for index in range(1, 5):
        late.answered(index, Sent("a"), seconds, 10.0, waiting)
    assert late.overdue(waiting, 10.0 + 1.1 * late.limit_seconds(ROWS)) == [0]
    late.sent_again(0, 20.0)
    waiting[0].times_sent = 2
    patience = max(AGAIN_SECONDS, PATIENCE * late.limit_seconds(ROWS))
    assert late.overdue(waiting, 20.0 + 0.9 * patience) == []
    assert late.overdue(waiting, 20.0 + 1.1 * patience) == [0]


def test_a_chunk_that_came_back_has_the_time_that_this_took_twice() -> None:
    late = Stragglers()
    waiting = opened(0)
    for index in range(1, 5):
        late.answered(index, Sent("a"), 0.1, 10.1, waiting)
    assert late.overdue(waiting, 11.0) == [0]
    late.sent_again(0, 11.0)
    # Since the first copy was begun, at 10; its child had 600 seconds.
    late.came_back(0, 610.0)
    late.sent_again(0, 610.0)
    waiting[0].times_sent, waiting[0].came_back = 3, 1
    assert late.overdue(waiting, 610.0 + 1_199.0) == []
    assert late.overdue(waiting, 610.0 + 1_201.0) == [0]


def test_copies_that_came_back_do_not_make_the_next_one_wait_longer() -> None:
    late = Stragglers()
    waiting = {0: Sent(times_sent=5, came_back=4)}
    for index in range(1, 5):
        late.answered(index, Sent("a"), 10.0, 10.0, waiting)
    late.sent_again(0, 20.0)
    assert late.overdue(waiting, 20.0 + 1.1 * late.limit_seconds(ROWS)) == [0]


def test_a_chunk_goes_again_when_all_its_copies_are_back() -> None:
    message = ChunkMessage(MESSAGE_VERSION, "ab" * 6, 0, 0, 4, 1, [ModelRef("m", "ab" * 32)], InlineRef(b""))
    opened = OpenChunk(message, "a", b"")
    opened.goes_again(late=True)  # the first one is slow, and not lost
    assert [opened.is_back() for _ in range(2)] == [False, True]
    opened.goes_again(late=False)
    opened.goes_again(late=True)  # nor is this one, though others have come back before
    assert [opened.is_back() for _ in range(2)] == [False, True]
    opened.goes_again(late=True)
    opened.goes_again(late=False)  # its worker is gone, and Redis has lost it
    assert opened.is_back()


def test_the_last_chunks_are_late_when_none_waits_in_a_queue() -> None:
    late = Stragglers()
    for index in range(4):
        late.answered(index, Sent("a"), 0.2, 1.0, {})
    waiting = opened(4, 5)
    late.all_running(waiting, 2.0)
    late.all_running(waiting, 2.3)  # looked at again
    assert late.overdue(waiting, 2.5) == []
    assert late.overdue(waiting, 2.0 + late.limit_seconds(ROWS) + 0.01) == [4, 5]


def test_before_anything_is_known_a_chunk_has_long() -> None:
    late = Stragglers()
    late.all_running(opened(0), 5.0)
    assert late.overdue(opened(0), 5.0 + 0.9 * UNKNOWN_SECONDS) == []
    assert late.overdue(opened(0), 5.0 + 1.1 * UNKNOWN_SECONDS) == [0]


def test_an_answered_chunk_is_not_late() -> None:
    late = Stragglers()
    for index in range(1, 5):
        late.answered(index, Sent("a"), 0.2, 1.0, opened(0))
    late.answered(0, Sent("a"), 3.0, 4.0, {})
    assert late.overdue({}, 100.0) == []


def test_chunks_that_a_worker_may_have_had_are_late_when_their_turn_is_over() -> None:
    late = Stragglers()
    for index in range(4):
        late.answered(index, Sent("a"), 1.0, 1.0, {})
    waiting = opened(4, 5, 6, 7)
    late.perhaps_lost(list(waiting), 10.0, 2)
    assert late.overdue(waiting, 10.0 + late.limit_seconds(ROWS) + 1.9) == []
    assert late.overdue(waiting, 10.0 + late.limit_seconds(ROWS) + 2.1) == [4, 5, 6, 7]
