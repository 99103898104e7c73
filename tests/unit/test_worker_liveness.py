"""Workers of a job that are gone: whose chunks must be sent again, and whose were handed back."""

from __future__ import annotations

import time

import pytest

from producer.scheduling.worker_liveness import WorkerLiveness
from tasks.protocol.messages import MESSAGE_VERSION, ModelRef
from tasks.protocol.preparing import Preparing
from tasks.protocol.records import ModelInfo, SlotRecord

MODEL = ModelInfo("digits", "d" * 64, 64, [], [], 0.0, 0)
REF = ModelRef("digits", "d" * 64)
LEFT = 20.0


def slot(worker: str, queue: str = "a") -> SlotRecord:
    return SlotRecord(worker, 0, 1, 0.0, queue, [MODEL], message_version=MESSAGE_VERSION)


def liveness(*slots: SlotRecord) -> WorkerLiveness:
    """One that looked at the time 0, when all had given a sign of life."""
    found = WorkerLiveness("0123456789ab", [REF], 5.0, slots)
    look(found, 0.0, *slots)
    return found


def look(liveness: WorkerLiveness, now: float, *slots: SlotRecord) -> None:
    workers = {one.worker: [one] for one in slots}
    liveness.update(now, workers, dict.fromkeys(workers, LEFT), {})


def test_nothing_is_stranded_while_all_are_up() -> None:
    found = liveness(slot("w0"), slot("w1"))
    look(found, 1.0, slot("w0"), slot("w1"))
    assert found.pop_stranded() == set()


def test_a_worker_that_ended_has_handed_back_its_chunks() -> None:
    found = liveness(slot("w0"), slot("w1"))
    look(found, 1.0, slot("w1"))
    assert found.pop_stranded() == set()


def test_what_one_had_that_gave_no_sign_of_life_is_stranded() -> None:
    found = liveness(slot("w0"), slot("w1"))
    look(found, LEFT, slot("w1"))
    assert found.pop_stranded() == {"a"}
    assert found.pop_stranded() == set()


def test_one_that_was_gone_before_the_first_look_may_have_died() -> None:
    found = WorkerLiveness("0123456789ab", [REF], 5.0, [slot("w0"), slot("w1")])
    look(found, 1.0, slot("w1"))
    assert found.pop_stranded() == {"a"}


def test_chunks_in_a_queue_that_nobody_serves_are_stranded() -> None:
    found = liveness(slot("w0"), slot("w1", "b"))
    look(found, 1.0, slot("w1", "b"))
    assert found.pop_stranded() == {"a"}


def test_chunks_wait_in_their_queue_for_a_worker_that_starts_anew() -> None:
    found = liveness(slot("w0"))
    look(found, 1.0)
    assert found.pop_stranded() == set(), "there is nobody to send them to"
    look(found, 9.0, slot("w2"))
    assert found.pop_stranded() == set()


def test_that_there_is_no_worker_is_told_when_one_is_needed_for_too_long() -> None:
    found = liveness(slot("w0"))
    look(found, 1.0)

    def absence(start: int, stop: int) -> str:
        """After a look in each second."""
        return [found.absence(float(second)) for second in range(start, stop + 1)][-1]

    assert not found.absence(100.0, needed=False)
    assert not absence(101, 104), "for 4 seconds"
    assert absence(105, 106) == f"no worker has held {REF} for 5 seconds"
    found.look_at_once(107.0, was_away=True)
    assert not absence(108, 111), "workers have to come back when Redis has"
    found.look_at_once(112.0, was_away=False)
    assert absence(112, 114), "a Redis that was full had them all the time"
    look(found, 115.0, slot("w1"))
    assert not found.absence(200.0)


def test_seconds_in_which_nobody_could_look_do_not_count() -> None:
    found = liveness()
    assert not found.absence(0.0, needed=False)
    for second in (1.0, 2.0, 300.0):
        assert not found.absence(second)
    assert found.absence(302.0)


def test_workers_of_a_plan_are_missed_when_they_are_gone_at_the_first_look() -> None:
    found = WorkerLiveness("0123456789ab", [REF], 5.0, workers=["w0", "w1"])
    look(found, 1.0, slot("w0"), slot("w1"))
    assert not found.has_lost
    found = WorkerLiveness("0123456789ab", [REF], 5.0, workers=["w0", "w1"])
    look(found, 1.0, slot("w1"))
    assert found.has_lost


def test_it_is_time_for_a_look_once_a_second() -> None:
    found = liveness()
    now = time.monotonic()
    assert [found.is_due(now + after) for after in (0.0, 0.5, 1.0, 1.5, 2.0)] == [True, False, True, False, True]
    found.look_at_once(now + 2.5, was_away=False)
    assert found.is_due(now + 2.5)


@pytest.mark.parametrize(
    ("models", "patience", "waits"),
    [
        ({"digits": ""}, 5.0, True),
        ({"digits": "d" * 64, "pair": ""}, 5.0, True),
        ({"digits": "e" * 64}, 5.0, False),  # another version
        ({"pair": "d" * 64}, 5.0, False),
        ({"digits": ""}, 0.0, False),
    ],
)
def test_a_worker_that_prepares_the_models_is_no_absence(models: dict[str, str], patience: float, waits: bool) -> None:
    found = WorkerLiveness("0123456789ab", [REF], patience)
    coming = {"celery@a:1234": Preparing(models, "making a snapshot of digits", 0, time.time() - 9, time.time())}
    start = time.monotonic()

    def said_after(seconds: range, workers: dict[str, Preparing]) -> str:
        said = ""
        for second in seconds:
            found.update(start + second, {name: [] for name in workers}, dict.fromkeys(workers, LEFT), workers)
            said = found.absence(start + second)
        return said

    said = said_after(range(9), coming)
    if waits:
        assert said == ""
        is_gone = "; one that was to hold them is gone: worker celery@a is preparing digits"
        assert is_gone in said_after(range(9, 20), {})
    else:
        assert said.startswith(f"no worker has held digits@dddddddd for {patience:.0f} seconds; worker celery@a is pre")
