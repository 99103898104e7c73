"""A soak of two laps: all kinds of work, injuries, samples, and nothing left; the table says what has grown."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.schedule import FAILOVERS, Kind
from tests.chaos.wide_arena import WideArena
from tests.soak.laps import lap_schedule, soak
from tests.soak.trend import findings

# A command whose output workers write, and a job of a client; no worker starts.
SEED = 138
LAPS = 2


def test_laps_leave_nothing_and_are_sampled(tmp_path_factory: pytest.TempPathFactory, models: Path) -> None:
    arena = WideArena(tmp_path_factory.mktemp("a"), models / "digits.keras", job_ttl_seconds=60)
    good, told = False, list[str]()
    try:
        arena.start()
        soaked = soak(arena, SEED, lambda lap, _: lap < LAPS, told.append, settle=False)
        good = True
    finally:
        arena.stop(check=good)
    assert (soaked.keys_left, soaked.files_left) == ([], [])
    assert len(told) == len(soaked.samples) == LAPS
    kinds = {one.kind for one in soaked.samples[-1].processes}
    assert kinds >= {
        "producer",
        "Redis",
        "dashboard",
        "main process",
        "main process, never killed",
        "child",
    }
    assert all(one.own and one.threads and one.descriptors for one in soaked.samples[-1].processes)
    assert {finding.what: finding.value for finding in findings(soaked.samples, soaked.seconds, [], [])}[
        "keys left"
    ] == "0"


def test_a_seed_has_the_same_laps() -> None:
    laps = [lap_schedule(3, lap) for lap in range(150)]
    assert laps == [lap_schedule(3, lap) for lap in range(150)]
    assert {injury.kind for lap in laps for injury in lap.injuries} == set(Kind) - FAILOVERS
    assert {lap.output for lap in laps if lap.by_command} == {".npy", ".parquet/", ".zarr/"}
