"""Lap after lap on one system: a job of some kind, hurt, beside others; then rest, and a sample.

seed, lap --> schedule --> chaos: the job, requests, training, detached jobs --> nothing is left --> sample
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from producer import Client
from tests.chaos.checks import keys_left
from tests.chaos.companions import Companion, Requests
from tests.chaos.run import run
from tests.chaos.scene import MODEL
from tests.chaos.schedule import LARGE, Kind, Schedule, make_wider_schedule
from tests.chaos.wide_arena import WideArena
from tests.dashboards import dashboard
from tests.soak.companions import Detached, Training
from tests.soak.producer import Producer
from tests.soak.sample import Sample, Sampler
from tests.waiting import wait_until
from worker_config.settings import Settings

INJURIES = 2
OUTPUTS = (".npy", ".parquet/", ".zarr/")
LAPS = 10_000


@dataclass(frozen=True)
class Soaked:
    """What came of a run: samples, seconds, and what is left at its end."""

    seconds: float
    samples: list[Sample]
    keys_left: list[str]
    files_left: list[str]


def lap_schedule(seed: int, lap: int) -> Schedule:
    """What a lap of a seed does: always the same."""
    schedule = make_wider_schedule(seed * LAPS + lap, INJURIES)
    draw = random.Random(f"soak {seed} {lap}")  # noqa: S311
    return replace(schedule, output=draw.choice(OUTPUTS)) if schedule.by_command else schedule


def soak(
    arena: WideArena,
    seed: int,
    goes_on: Callable[[int, float], bool],
    tell: Callable[[str], None],
    *,
    settle: bool = True,
    samples: list[Sample] | None = None,
) -> Soaked:
    """Run laps as long as `goes_on` says so of their number and the seconds so far.

    Without `settle` what jobs have left whose producer was killed is not waited for; `samples` grow by one in each lap,
    for whoever wants them also where it does not end well.

    Raises:
        AssertionError, CeleriacError: an output was wrong, or something was left, or hung; notes say what, and when.
    """
    began, samples = time.monotonic(), [] if samples is None else samples
    arena.spared = arena.ready_workers()[0]
    with dashboard(arena.url, arena.folder) as page, Producer(arena) as producer:
        sampler = Sampler(arena, producer, {"dashboard": page.process.pid})
        folders = set(arena.folder.glob("n*"))
        lap = 0
        while goes_on(lap, time.monotonic() - began):
            schedule = lap_schedule(seed, lap)
            try:
                run(arena, schedule, producer.beside(_companions(schedule)))
                arena.set_pace(0)
                samples.append(sampler.take(lap))
            except BaseException as error:
                error.add_note(f"soak of seed {seed}: lap {lap}, {time.monotonic() - began:.0f} s after its beginning")
                raise
            for folder in set(arena.folder.glob("n*")) - folders:
                shutil.rmtree(folder)
            hurt = "; ".join(str(injury.kind) for injury in schedule.injuries)
            tell(f"lap {lap}, {samples[-1].at:.0f} s: {str(schedule).splitlines()[0]}: {hurt}")
            lap += 1
    seconds = time.monotonic() - began
    if settle:
        _settle(arena)
    return Soaked(seconds, samples, *_left(arena))


def _companions(schedule: Schedule) -> list[type[Companion]]:
    """Detached jobs are lost with Redis's data, and refused where it has no room, as they say."""
    kinds = {injury.kind for injury in schedule.injuries}
    return [Requests, Training, *([] if kinds & {Kind.REDIS_EMPTIED, Kind.REDIS_FULL} else [Detached])]


def _left(arena: WideArena) -> tuple[list[str], list[str]]:
    """Keys and files that should not be there."""
    files = [str(path) for path in arena.spool.glob("*/*") if path.parent.name not in arena.orphans]
    return keys_left(arena.server, arena.orphans), files


def _settle(arena: WideArena) -> None:
    """Wait until the time to live of jobs whose producer was killed is over, and they count as all others."""
    arena.orphans.clear()
    settings = Settings(spool=arena.spool, job_ttl_seconds=arena.job_ttl_seconds)

    def settled() -> bool:
        with Client(arena.url, settings=settings) as client:  # a job that begins removes the files of old ones
            arena.expect(cast("np.ndarray", client.submit(MODEL, arena.rows[:LARGE], store="files").result()))
        return not any(_left(arena))

    with suppress(AssertionError):  # what is left is told
        wait_until(settled, "nothing is left", 2 * arena.job_ttl_seconds, every_seconds=5)
