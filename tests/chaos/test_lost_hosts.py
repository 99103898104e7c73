"""Hosts that die in the middle of a job: what one of them ran is soon run elsewhere; all of them come back."""

from __future__ import annotations

import time

import numpy as np
import pytest

from producer import Client, JobState
from tests.chaos.arena import CHILDREN, Arena
from tests.chaos.calls import Call
from tests.forms import LONG, in_long_form
from tests.waiting import descendants_of, wait_until

CHUNK_ROWS = 16
CHUNKS = 80 if LONG else 60
CHUNK_SECONDS = 0.4
# Besides three times what a chunk takes.
GRACE_SECONDS = 2.0
# In this time a worker runs so many chunks; counted, as machines, and workers with them, may stand still meanwhile.
SOON_CHUNKS = CHILDREN * (3 + GRACE_SECONDS / CHUNK_SECONDS)
# How long nobody is there, besides the time that workers take to start.
GONE_SECONDS = 10.0


@pytest.fixture(autouse=True)
def pace(arena: Arena) -> None:
    """Chunks that take their time, and two workers."""
    arena.bring_up(2)
    arena.set_pace(CHUNK_SECONDS)
    arena.calls.restart()


def test_what_a_killed_worker_ran_is_soon_run_elsewhere(arena: Arena) -> None:
    rows = arena.rows_of(CHUNK_ROWS)[: CHUNKS * CHUNK_ROWS]
    victim, _ = arena.ready_workers()
    children = set(descendants_of(victim.pid))
    with Client(arena.system.url) as client:
        job = client.submit("digits", rows, chunk_rows=CHUNK_ROWS)
        wait_until(lambda: job.ledger.chunks_answered >= CHUNKS // 4, "the job runs")
        wait_until(lambda: {call.pid for call in arena.calls.open()} >= children, "both children run a chunk")

        pids = arena.kill(victim)
        killed_at = time.monotonic()
        lost = [call for call in arena.calls.read() if call.pid in pids and call.ended is None]
        assert lost, "it ran chunks"

        def elsewhere(call: Call) -> Call | None:
            again = (other for other in arena.calls.read() if other.first == call.first and other.pid not in pids)
            return next(again, None)

        again = wait_until(lambda: all(map(elsewhere, lost)) and [elsewhere(call) for call in lost], "others run them")
        np.testing.assert_array_equal(job.result(), arena.expected[: len(rows)])
        job.ledger.check()
        assert job.ledger.predicted == len(rows)
    begun = [call for call in arena.calls.read() if call.pid not in pids and call.begun > killed_at]
    before = [sum(other.begun < call.begun for other in begun) for call in again if call]
    assert max(before) <= SOON_CHUNKS, f"begun elsewhere after {before} other chunks, of {len(begun)}"
    assert len(begun) > SOON_CHUNKS, "there were enough to tell"


@in_long_form
def test_when_all_workers_were_killed_new_ones_end_the_job(arena: Arena) -> None:
    rows = arena.rows_of(CHUNK_ROWS)[: 80 * CHUNK_ROWS]
    with Client(arena.system.url, worker_timeout_seconds=120) as client:
        job = client.submit("digits", rows, chunk_rows=CHUNK_ROWS)
        wait_until(lambda: job.ledger.chunks_answered >= 20, "the job runs")
        for worker in arena.ready_workers():
            arena.kill(worker)
        gone_at = time.monotonic()
        wait_until(lambda: time.monotonic() - gone_at > GONE_SECONDS, "they have been gone for long")
        assert job.state is JobState.RUNNING
        answered = job.ledger.chunks_answered
        arena.bring_up(2)

        np.testing.assert_array_equal(job.result(), arena.expected[: len(rows)])
        job.ledger.check()
        assert job.ledger.predicted == len(rows)
        assert answered < job.ledger.chunks_answered == 80


@in_long_form
def test_a_worker_that_is_asked_to_end_costs_no_chunk(arena: Arena) -> None:
    rows = arena.rows_of(CHUNK_ROWS)[: 60 * CHUNK_ROWS]
    leaving, _ = arena.ready_workers()
    with Client(arena.system.url) as client:
        job = client.submit("digits", rows, chunk_rows=CHUNK_ROWS)
        wait_until(lambda: job.ledger.chunks_answered >= 10, "the job runs")
        arena.dismiss(leaving)

        np.testing.assert_array_equal(job.result(), arena.expected[: len(rows)])
        job.ledger.check()
    wait_until(lambda: leaving.process.poll() is not None, "it has left")
    assert leaving.process.returncode == 0
    assert not [call for call in arena.calls.read() if call.ended is None], "no chunk was cut short"
    assert not arena.calls.repeated(), "no chunk ran twice"
