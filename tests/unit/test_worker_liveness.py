"""Workers of a job that are gone: whose chunks must be sent again, and whose were handed back."""

from __future__ import annotations

from producer.scheduling.worker_liveness import WorkerLiveness
from tasks.protocol.messages import ModelRef
from tasks.protocol.records import ModelInfo, SlotRecord

MODEL = ModelInfo("digits", "d" * 64, 64, [], [], 0.0, 0)
REF = ModelRef("digits", "d" * 64)
LEFT = 20.0


def slot(worker: str, queue: str = "a") -> SlotRecord:
    return SlotRecord(worker, 0, 1, 0.0, queue, [MODEL])


def liveness(*slots: SlotRecord) -> WorkerLiveness:
    """One that looked at the time 0, when all had given a sign of life."""
    found = WorkerLiveness("0123456789ab", [REF], slots)
    look(found, 0.0, *slots)
    return found


def look(liveness: WorkerLiveness, now: float, *slots: SlotRecord) -> None:
    workers = {one.worker: [one] for one in slots}
    liveness.update(workers, dict.fromkeys(workers, LEFT), now)


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
    found = WorkerLiveness("0123456789ab", [REF], [slot("w0"), slot("w1")])
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
