"""Chunks whose answer is overdue: those that later ones have overtaken for long, by the times that chunks took."""

from __future__ import annotations

from collections import OrderedDict

import pytest

from producer.scheduling.open_chunk import OpenChunk
from producer.scheduling.stragglers import LEAST_KNOWN, Stragglers
from tasks.protocol.messages import MESSAGE_VERSION, ChunkMessage, InlineRef, ModelRef
from worker_config.retry_policy import (
    LEAST_RESEND_SECONDS,
    RESEND_BACKOFF,
    STRAGGLER_SLACK_SECONDS,
    STRAGGLER_UNKNOWN_SECONDS,
)

ROWS = 8


def chunk(index: int, queue: str = "a", rows: int = ROWS, *, times_sent: int = 1, times_returned: int = 0) -> OpenChunk:
    models = [ModelRef("m", "ab" * 32)]
    message = ChunkMessage(MESSAGE_VERSION, "ab" * 6, index, 0, rows, None, models, InlineRef(b""))
    return OpenChunk(message, queue, times_sent=times_sent, times_returned=times_returned)


def chunks(*indexes: int) -> list[OpenChunk]:
    return [chunk(index) for index in indexes]


def in_queue(waiting: list[OpenChunk], queue: str = "a") -> OrderedDict[int, OpenChunk]:
    return OrderedDict((one.index, one) for one in waiting if one.queue == queue)


def overdue(late: Stragglers, waiting: list[OpenChunk], now: float) -> list[int]:
    return [one.index for one in late.overdue(waiting, now)]


def test_nothing_is_late_before_a_later_chunk_is_answered() -> None:
    late = Stragglers()
    waiting = chunks(7, 8)
    for index in range(LEAST_KNOWN):
        late.answered(chunk(index), 0.5, 1.0 + index, in_queue(waiting))
    assert overdue(late, waiting, 1_000.0) == []


def test_a_chunk_that_later_ones_have_overtaken_is_late_by_the_times_of_others() -> None:
    late = Stragglers()
    waiting = chunks(3, 9)
    for index in range(4, 8):
        late.answered(chunk(index), 0.5, 10.0, in_queue(waiting))
    assert late.limit_seconds(ROWS) == pytest.approx(0.5 + 0.6 + STRAGGLER_SLACK_SECONDS)
    # The later one was begun half a second before its answer.
    assert overdue(late, waiting, 9.5 + 1.3) == []
    assert overdue(late, waiting, 9.5 + 1.5) == [3]


def test_an_answer_looks_at_those_alone_that_were_not_begun() -> None:
    late, waiting = Stragglers(), in_queue(chunks(1, 3, 6, 8))
    late.answered(chunk(4), 0.5, 10.0, waiting)
    assert list(waiting) == [6, 8]
    late.answered(chunk(2), 0.5, 10.0, waiting)
    assert list(waiting) == [6, 8]


def test_slow_chunks_have_patience_with_slow_ones() -> None:
    late = Stragglers()
    for index, seconds in enumerate([1.0] * 8 + [9.0] * 2):
        late.answered(chunk(index), seconds, 10.0, in_queue([]))
    assert late.limit_seconds(ROWS) > 10


def test_chunks_that_grow_have_so_much_longer() -> None:
    late = Stragglers()
    waiting = [chunk(9, rows=10 * ROWS), chunk(10)]
    for index in range(11, 17):
        late.answered(chunk(index), 0.1, 10.1, in_queue(waiting))
    assert late.limit_seconds(10 * ROWS) == pytest.approx(10 * 0.22 + STRAGGLER_SLACK_SECONDS)
    assert overdue(late, waiting, 10.0 + 1.1) == [10]
    assert overdue(late, waiting, 10.0 + 2.6) == [9, 10]
    for index in range(17, 40):  # until most are as large
        late.answered(chunk(index, rows=10 * ROWS), 1.0, 20.0, in_queue([]))
    assert late.limit_seconds(10 * ROWS) == pytest.approx(2.2 + STRAGGLER_SLACK_SECONDS)


def test_chunks_of_another_queue_tell_nothing() -> None:
    late = Stragglers()
    waiting = [chunk(1, "b"), chunk(2)]
    for index in range(3, 8):
        late.answered(chunk(index), 0.1, 10.0, in_queue(waiting))
    assert overdue(late, waiting, 100.0) == [2]


@pytest.mark.parametrize("seconds", [1.0, 0.001])
def test_each_copy_makes_the_next_one_wait_longer_and_for_seconds_however_short_chunks_are(seconds: float) -> None:
    late = Stragglers()
    waiting = chunks(0)
    for index in range(1, 5):
        late.answered(chunk(index), seconds, 10.0, in_queue(waiting))
    assert overdue(late, waiting, 10.0 + 1.1 * late.limit_seconds(ROWS)) == [0]
    waiting[0].overdue_since = 20.0
    waiting[0].times_sent = 2
    patience = max(LEAST_RESEND_SECONDS, RESEND_BACKOFF * late.limit_seconds(ROWS))
    assert overdue(late, waiting, 20.0 + 0.9 * patience) == []
    assert overdue(late, waiting, 20.0 + 1.1 * patience) == [0]


def test_a_chunk_that_came_back_has_the_time_that_this_took_twice() -> None:
    late = Stragglers()
    waiting = chunks(0)
    for index in range(1, 5):
        late.answered(chunk(index), 0.1, 10.1, in_queue(waiting))
    assert overdue(late, waiting, 11.0) == [0]
    waiting[0].overdue_since = 11.0
    # Since the first copy was begun, at 10; its child had 600 seconds.
    waiting[0].take_back(610.0)
    waiting[0].overdue_since = 610.0
    waiting[0].times_sent = 3
    assert overdue(late, waiting, 610.0 + 1_199.0) == []
    assert overdue(late, waiting, 610.0 + 1_201.0) == [0]


def test_copies_that_came_back_do_not_make_the_next_one_wait_longer() -> None:
    late = Stragglers()
    waiting = [chunk(0, times_sent=5, times_returned=4)]
    for index in range(1, 5):
        late.answered(chunk(index), 10.0, 10.0, in_queue(waiting))
    waiting[0].overdue_since = 20.0
    assert overdue(late, waiting, 20.0 + 1.1 * late.limit_seconds(ROWS)) == [0]


def test_a_chunk_goes_again_when_all_its_copies_are_back() -> None:
    opened = chunk(0)
    opened.resend(late=True)  # the first one is slow, and not lost
    assert [opened.take_back(0.0) for _ in range(2)] == [False, True]
    opened.resend(late=False)
    opened.resend(late=True)  # nor is this one, though others have come back before
    assert [opened.take_back(0.0) for _ in range(2)] == [False, True]
    opened.resend(late=True)
    opened.resend(late=False)  # its worker is gone, and Redis has lost it
    assert opened.take_back(0.0)


def test_the_last_chunks_are_late_when_none_waits_in_a_queue() -> None:
    late = Stragglers()
    for index in range(4):
        late.answered(chunk(index), 0.2, 1.0, in_queue([]))
    waiting = chunks(4, 5)
    for now in (2.0, 2.3):  # looked at again
        for one in waiting:
            one.begin(now)
    assert overdue(late, waiting, 2.5) == []
    assert overdue(late, waiting, 2.0 + late.limit_seconds(ROWS) + 0.01) == [4, 5]


def test_before_anything_is_known_a_chunk_has_long() -> None:
    late = Stragglers()
    waiting = chunks(0)
    waiting[0].begin(5.0)
    assert overdue(late, waiting, 5.0 + 0.9 * STRAGGLER_UNKNOWN_SECONDS) == []
    assert overdue(late, waiting, 5.0 + 1.1 * STRAGGLER_UNKNOWN_SECONDS) == [0]


def test_an_answered_chunk_is_not_late() -> None:
    late = Stragglers()
    waiting = chunks(0)
    for index in range(1, 5):
        late.answered(chunk(index), 0.2, 1.0, in_queue(waiting))
    late.answered(waiting.pop(), 3.0, 4.0, in_queue(waiting))
    assert overdue(late, waiting, 100.0) == []


def test_chunks_that_a_worker_may_have_had_are_late_when_their_turn_is_over() -> None:
    late = Stragglers()
    for index in range(4):
        late.answered(chunk(index), 1.0, 1.0, in_queue([]))
    waiting = chunks(4, 5, 6, 7)
    late.perhaps_lost(waiting, 10.0, 2)
    assert overdue(late, waiting, 10.0 + late.limit_seconds(ROWS) + 1.9) == []
    assert overdue(late, waiting, 10.0 + late.limit_seconds(ROWS) + 2.1) == [4, 5, 6, 7]
