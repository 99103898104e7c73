"""Seeded injuries on real processes while a job runs: the output is right to the bit, and nothing is left behind."""

from __future__ import annotations

import pytest

from tests.chaos.arena import Arena
from tests.chaos.run import run
from tests.chaos.schedule import make_guarded_schedule, make_schedule, make_wider_schedule
from tests.forms import seeds

# Seeds that have failed once, each with what it found; they stay.
FAILED_ONCE = {
    0: "messages that a killed Redis had handed to workers were never sent again",
    1: "a worker ended itself when Redis was away while it had chunks that were not done",
    6: "the same",
    10: "a test waited for a child of a worker that was ending",
    12: "a producer whose batch of chunks was cut off called it a bug and ended the job; a child that had just come up "
    "when Redis lost its data was never told of again",
    16: "as 0",
}


# In the short form no worker is to start.
@pytest.mark.parametrize("seed", seeds(short=[16], long=50, failed_once=FAILED_ONCE))
def test_a_job_ends_right_whatever_happens(arena: Arena, seed: int) -> None:
    run(arena, make_schedule(seed))


FAILED_ONCE_IN_WIDER = {
    44: "a test waited for the end of an injury for so long that the job was over",
    53: "a test looked for rows in the spool folder alone, which Redis takes once a disk was full",
    105: "a test waited until a worker that stood still looked at its clock",
    235: "the end of a worker by a script of Celery that a full Redis had refused",
    240: "perhaps the same: slots were waited for in vain",
    471: "as 105",
    497: "as 105",
}


# Their short form is that of the soak, whose laps are of the wider schedules.
@pytest.mark.parametrize("seed", seeds(short=[], long=50, failed_once=FAILED_ONCE_IN_WIDER))
def test_a_job_ends_right_whatever_else_happens(wide_arena: Arena, seed: int) -> None:
    run(wide_arena, make_wider_schedule(seed))


@pytest.mark.parametrize("seed", seeds(short=[], long=20))
def test_a_job_ends_right_whichever_redis_is_the_primary(guarded_arena: Arena, seed: int) -> None:
    run(guarded_arena, make_guarded_schedule(seed))
