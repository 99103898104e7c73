"""What a child tells of its waits for a store, what is made of it, and when it is said."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import pytest

from producer.records.store_waits import StoreWait, WaitLine, occupied_slots, of_job, waits_in
from producer.scheduling.stragglers import Stragglers
from tasks.protocol.records import Running, WorkerFacts
from tasks.storage import waits
from tasks.telemetry.counters import Counters
from tasks.telemetry.stopwatch import Stopwatch
from tests.unit.test_stragglers import chunk, in_queue
from worker_config.retry_policy import STORE_TELL_SECONDS

JOB, OTHER = "a" * 12, "b" * 12


@pytest.fixture
def told() -> Iterator[list[tuple[float, str]]]:
    heard: list[tuple[float, str]] = []
    waits.tell_to(lambda since, text: heard.append((since, text)))
    yield heard
    waits._listeners.clear()


def test_the_oldest_wait_of_all_threads_is_told(told: list[tuple[float, str]]) -> None:
    def another() -> None:
        waits.begin(7.0, "another")
        waits.end()

    waits.end()
    assert not told
    waits.begin(5.0, "one")
    thread = threading.Thread(target=another)
    thread.start()
    thread.join()
    waits.begin(5.0, "one, for another reason")
    waits.end()
    one = (5.0, "one")
    assert told == [one, one, one, (5.0, "one, for another reason"), (0.0, "")]


def test_a_child_waits_while_its_chunk_stands_still() -> None:
    counters = Counters()
    watch, since, pid = Stopwatch(cells=counters.begin(3)), time.monotonic(), os.getpid()
    assert counters.wait_of(3, pid) == (0.0, "")
    counters.waits(3, since, "s3://bucket/key: the store is busy")
    assert counters.wait_of(3, pid) == (0.0, "")  # between two chunks, as something is fetched ahead
    watch.enter("fetch")
    assert counters.wait_of(3, pid) == (since, "s3://bucket/key: the store is busy")
    assert counters.wait_of(3, pid + 1) == (0.0, "")  # the child that is there by now
    watch.enter("infer")
    assert counters.wait_of(3, pid) == (0.0, "")
    watch.enter("store")
    counters.waits(3, since, "ü" * 2_000)
    assert set(counters.wait_of(3, pid)[1]) == {"ü"}
    counters.waits(3, 0.0, "")
    assert counters.wait_of(3, pid) == (0.0, "")


def test_copies_of_a_chunk_that_waits_will_wait_too() -> None:
    slots = {("w", 0), ("w", 1), ("v", 0)}
    first, of_another = StoreWait("w", 0, JOB, 12, "x", 3.0), StoreWait("v", 0, OTHER, 12, "y", 3.0)
    assert occupied_slots([], JOB, {12: 2, 20: 1}, slots) == 0
    assert occupied_slots([first], JOB, {12: 1, 20: 2}, slots) == 1
    assert occupied_slots([first], JOB, {12: 2, 20: 1}, slots) == 2
    assert occupied_slots([first, StoreWait("w", 1, JOB, 12, "x", 1.0)], JOB, {12: 2}, slots) == 2
    assert occupied_slots([first, of_another], JOB, {12: 2}, slots) == 3
    # Answered from another slot meanwhile; and a slot that is none of the job's.
    assert occupied_slots([first], JOB, {}, slots) == 1
    assert occupied_slots([StoreWait("u", 0, JOB, 12, "x", 1.0)], JOB, {12: 2}, slots) == 0


def test_the_longest_wait_of_a_job_is_told_with_the_number_of_others() -> None:
    facts = {
        "one@host": WorkerFacts(running={0: Running(JOB, "chunk 1", 9.0, 1, "s3://b/x: no answer", 3.2)}),
        "two@host": WorkerFacts(
            running={
                0: Running(JOB, "chunk 2", 20.0, 2, "s3://b/y: the store is busy", 12.4),
                1: Running(OTHER, "chunk 3", 20.0, 3, "s3://b/z: the store is busy", 40.0),
                2: Running(JOB, "chunk 4", 20.0, 4),
            }
        ),
    }
    found = waits_in(facts)
    assert [(one.worker, one.slot, one.index) for one in found] == [
        ("one@host", 0, 1),
        ("two@host", 0, 2),
        ("two@host", 1, 3),
    ]
    text = "worker two@host waits for s3://b/y: the store is busy, for 12 s by now"
    assert of_job(found, JOB) == f"{text}; so does another slot"
    assert of_job([*found, StoreWait("one@host", 1, JOB, 5, "", 1.0)], JOB) == f"{text}; so do 2 other slots"
    assert of_job(found, "c" * 12) == ""


def test_a_wait_is_told_once_then_now_and_then_and_its_end() -> None:
    line = WaitLine()
    assert line.look("", 0.0) == ""
    assert line.look("one", 1.0) == "waits: one"
    assert line.look("one", STORE_TELL_SECONDS) == ""
    assert line.look("other", 1.0 + STORE_TELL_SECONDS) == "waits: other"
    assert line.look("", 2.0 + STORE_TELL_SECONDS) == "goes on"
    assert line.look("", 3.0 + STORE_TELL_SECONDS) == ""


def test_a_chunk_that_stands_still_is_not_late() -> None:
    late, waiting = Stragglers(), [chunk(1), chunk(2)]
    for index in range(3, 9):
        late.answered(chunk(index), 0.1, 10.0, in_queue(waiting))
    waiting[0].stands_still(60.0)
    assert [one.index for one in late.overdue(waiting, 60.0)] == [2]
    assert [one.index for one in late.overdue(waiting, 61.0)] == [1, 2]
