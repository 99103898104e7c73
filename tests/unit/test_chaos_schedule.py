"""Schedules of injuries: the same from the same seed, and all kinds of them in fifty."""

from __future__ import annotations

import pytest

from tests.chaos.schedule import CHUNKS, Kind, make_schedule

SEEDS = range(50)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_seed_has_one_schedule(seed: int) -> None:
    assert make_schedule(seed) == make_schedule(seed)


def test_seeds_have_different_schedules() -> None:
    assert len({make_schedule(seed).injuries for seed in SEEDS}) == len(SEEDS)


def test_every_kind_of_injury_and_of_job_occurs() -> None:
    schedules = [make_schedule(seed) for seed in SEEDS]
    assert {injury.kind for schedule in schedules for injury in schedule.injuries} == set(Kind)
    assert {schedule.source for schedule in schedules} == {"array", "file", "iterator"}
    assert {schedule.store for schedule in schedules} == {"redis", "files", "slices"}
    assert {(schedule.by_command, schedule.chunk_rows) for schedule in schedules} == {
        (by_command, rows) for by_command in (False, True) for rows in (16, 320)
    }


@pytest.mark.parametrize("seed", SEEDS)
def test_moments_are_in_order_and_inside_the_job(seed: int) -> None:
    schedule = make_schedule(seed)
    moments = [injury.moment for injury in schedule.injuries]
    assert moments == sorted(moments)
    assert moments[0] > 0
    assert moments[-1] < CHUNKS * 0.7


@pytest.mark.parametrize("seed", SEEDS)
def test_only_a_command_can_be_resumed_and_only_rows_that_travel_are_lost(seed: int) -> None:
    schedule = make_schedule(seed)
    kinds = [injury.kind for injury in schedule.injuries]
    assert (Kind.PRODUCER_KILLED in kinds) == schedule.by_command
    if schedule.store == "slices":
        assert schedule.source == "file"
        assert Kind.PAYLOAD_LOST not in kinds
