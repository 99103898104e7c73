"""A Redis that is killed in the middle of a job of many small chunks, and comes back empty, costs a window at most."""

from __future__ import annotations

import numpy as np

from producer import Client
from producer.scheduling.window import SMALL_CHUNKS_PER_SLOT
from tests.chaos.arena import Arena
from tests.chaos.schedule import LARGE
from tests.forms import LONG
from tests.waiting import wait_until

CHUNKS = 2_000 if LONG else 600
KILLED_AFTER = CHUNKS // 3
CHUNK_ROWS = 64


def test_a_redis_that_comes_back_empty_costs_a_window_at_most(arena: Arena) -> None:
    arena.bring_up(2)
    arena.calls.restart()
    rows = arena.rows_of(LARGE)[: CHUNKS * CHUNK_ROWS]
    slots = len(arena.system.slots())
    with Client(arena.system.url) as client:
        job = client.submit("digits", rows, chunk_rows=CHUNK_ROWS)
        wait_until(lambda: job.ledger.chunks_answered >= KILLED_AFTER, "the job is in the middle")
        arena.system.redis.stop()
        arena.system.redis.forget()
        answered = job.ledger.chunks_answered
        assert answered < CHUNKS
        arena.system.redis.start()

        assert job.wait(120), f"the job hangs: {job.progress()}; {job.ledger}"
        np.testing.assert_array_equal(job.result(), arena.expected[: len(rows)])
    ledger = job.ledger
    ledger.check()
    assert (ledger.predicted, ledger.chunks_answered) == (len(rows), CHUNKS)
    window = slots * SMALL_CHUNKS_PER_SLOT
    assert len(arena.calls.repeated()) <= window
    assert ledger.duplicates <= window
    assert ledger.chunks_sent_again > 0, "all that was in Redis was lost"
