"""Schedules of injuries: the same from the same seed, and all kinds of them in fifty."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.chaos.schedule import (
    CHUNKS,
    FAILOVERS,
    WIDER,
    Kind,
    Schedule,
    make_guarded_schedule,
    make_schedule,
    make_wider_schedule,
)

SEEDS = range(50)
KINDS_OF_16 = [
    Kind.REDIS_RESTARTED,
    Kind.WORKER_STOPPED,
    Kind.PAYLOAD_LOST,
    Kind.REDIS_EMPTIED,
    Kind.CHILD_KILLED,
    Kind.SOME_CONNECTIONS_CUT,
]

all_sets = pytest.mark.parametrize("make", [make_schedule, make_wider_schedule, make_guarded_schedule])


@all_sets
def test_a_seed_has_one_schedule(make: Callable[[int], Schedule]) -> None:
    assert [make(seed) for seed in SEEDS] == [make(seed) for seed in SEEDS]


def test_a_seed_means_what_it_has_always_meant() -> None:
    kinds = [injury.kind for injury in make_schedule(16).injuries]
    assert kinds == KINDS_OF_16


@all_sets
def test_seeds_have_different_schedules(make: Callable[[int], Schedule]) -> None:
    assert len({make(seed).injuries for seed in SEEDS}) == len(SEEDS)


@pytest.mark.parametrize(
    ("make", "kinds"),
    [
        (make_schedule, set(Kind) - WIDER - FAILOVERS),
        (make_wider_schedule, set(Kind) - FAILOVERS),
        (make_guarded_schedule, set(Kind) - WIDER - {Kind.REDIS_RESTARTED, Kind.REDIS_EMPTIED, Kind.REDIS_STOPPED}),
    ],
)
def test_every_kind_of_injury_and_of_job_occurs(make: Callable[[int], Schedule], kinds: set[Kind]) -> None:
    schedules = [make(seed) for seed in SEEDS]
    assert {injury.kind for schedule in schedules for injury in schedule.injuries} == kinds
    assert {schedule.source for schedule in schedules} == {"array", "file", "iterator"}
    assert {schedule.store for schedule in schedules} >= {"redis", "files"}
    assert {(schedule.by_command, schedule.chunk_rows) for schedule in schedules} == {
        (by_command, rows) for by_command in (False, True) for rows in (16, 320)
    }


@all_sets
@pytest.mark.parametrize("seed", SEEDS)
def test_moments_are_in_order_and_inside_the_job(make: Callable[[int], Schedule], seed: int) -> None:
    moments = [injury.moment for injury in make(seed).injuries]
    assert moments == sorted(moments)
    assert moments[0] > 0
    assert moments[-1] < CHUNKS * 0.7


@all_sets
@pytest.mark.parametrize("seed", SEEDS)
def test_what_happens_can_happen_to_such_a_job(make: Callable[[int], Schedule], seed: int) -> None:
    schedule = make(seed)
    kinds = [injury.kind for injury in schedule.injuries]
    assert (Kind.PRODUCER_KILLED in kinds) == schedule.by_command
    assert schedule.by_command or Kind.PRODUCER_STOPPED not in kinds
    assert schedule.store == "files" or Kind.DISK_FULL not in kinds
    assert all(kinds.count(kind) <= 1 for kind in WIDER)
    if schedule.store == "slices":
        assert schedule.source == "file"
        assert Kind.PAYLOAD_LOST not in kinds
