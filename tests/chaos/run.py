"""A schedule from its first row to a look at what is left."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from producer import Client
from tests.chaos.arena import PACE_SECONDS, WORKERS, Arena
from tests.chaos.checks import check_ledger, check_nothing_is_left
from tests.chaos.companions import Requests
from tests.chaos.guarded_arena import COURSES as FAILOVERS
from tests.chaos.injuries import COURSES, Course
from tests.chaos.scene import WORKER_TIMEOUT_SECONDS, Scene, begin
from tests.chaos.schedule import ALONE, STOPS, Injury, Kind, Schedule
from tests.chaos.wider_injuries import COURSES as WIDER_COURSES
from tests.waiting import wait_until
from worker_config.settings import Settings

STILL_SECONDS = 60.0
PATIENCE_SECONDS, SLOW_PACE_SECONDS = 0.5, 1.0
_COURSES = COURSES | WIDER_COURSES | FAILOVERS


class Beside(Protocol):
    """What goes on beside the job of a schedule until it is ended or abandoned."""

    def end(self) -> None:
        """Wait for its end, and see that all was right."""

    def abandon(self) -> None:
        """End it somehow, after a failure."""


class RequestsBeside:
    """Requests of a client of their own."""

    def __init__(self, arena: Arena, seed: int) -> None:
        settings = Settings(job_ttl_seconds=arena.job_ttl_seconds)
        self._client = Client(arena.url, worker_timeout_seconds=WORKER_TIMEOUT_SECONDS, settings=settings)
        self._requests = Requests(self._client, arena, seed)

    def end(self) -> None:
        self._requests.end()
        self._client.close()

    def abandon(self) -> None:
        self._requests.abandon()
        self._client.close()


def run(arena: Arena, schedule: Schedule, begin_beside: Callable[[Arena, int], Beside] | None = None) -> None:
    """Run a schedule and check all that is to be checked; an error says what happened until then."""
    arena.bring_up(WORKERS)
    arena.set_pace(PACE_SECONDS)
    arena.calls.restart()
    scene = begin(arena, schedule)
    wounds = Wounds(scene)
    beside = None
    try:
        beside = (begin_beside or RequestsBeside)(arena, schedule.seed)
        for injury in schedule.injuries:
            wounds.wait_for(injury)
            wounds.inflict(injury)
        wounds.heal()
        arena.set_pace(0)
        outputs, ledger = scene.end()
        arena.expect(outputs)
        check_ledger(scene, len(outputs), ledger.as_dict())
        beside.end()
        arena.bring_up(WORKERS)
        check_nothing_is_left(scene)
    except BaseException as error:
        told = f"job {scene.job_id()}: {scene}; see {arena.folder}"
        for note in (f"schedule: {schedule}", f"inflicted: {wounds}", told):
            error.add_note(note)
        if beside:
            beside.abandon()
        scene.abandon()
        raise


class Wounds:
    """The injuries so far, and those that are not over."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._open: list[tuple[Kind, Callable[[], Any], Course]] = []
        self._told: list[str] = []

    def wait_for(self, injury: Injury) -> None:
        """Until its moment has come, and nothing is open that it does not go together with."""
        excluded = set(ALONE) | (set(STOPS) if injury.kind in STOPS | ALONE else set())

        def its_time() -> bool:
            self.tend()
            self._scene.arena.check_workers()
            assert not self._scene.is_over(), "the job is over before all has happened"
            alone = not excluded & {kind for kind, _, _ in self._open}
            return alone and self._scene.predicted_chunks() >= injury.moment

        wait_until(its_time, str(injury), STILL_SECONDS)

    def inflict(self, injury: Injury) -> None:
        """Let it happen."""
        course = _COURSES[injury.kind](self._scene, injury)
        self._told.append(f"{self._scene.predicted_chunks()}: {injury}")
        with self._without_hurry():
            self._open.append((injury.kind, next(course), course))
        self._told[-1] += ", done"

    def tend(self) -> None:
        """End what is over; to end it may need Redis, so nothing does before Redis is back."""
        for wound in [one for one in self._open if one[0] in ALONE] or list(self._open):
            kind, is_over, course = wound
            if is_over():
                self._open.remove(wound)
                with self._without_hurry():
                    for _ in course:  # what follows its condition
                        raise AssertionError(f"{kind} has one condition")
                self._told.append(f"{self._scene.predicted_chunks()}: over: {kind}")

    @contextmanager
    def _without_hurry(self) -> Iterator[None]:
        """What takes long on a busy machine must not outlast the job: its chunks are then slow as well."""
        slower = threading.Timer(PATIENCE_SECONDS, self._scene.arena.set_pace, [SLOW_PACE_SECONDS])
        slower.start()
        try:
            yield
        finally:
            slower.cancel()
            slower.join()
            self._scene.arena.set_pace(PACE_SECONDS)

    def heal(self) -> None:
        """Wait until all are over."""

        def healed() -> bool:
            self.tend()
            return not self._open

        wait_until(healed, f"all is over: {[kind for kind, _, _ in self._open]}", STILL_SECONDS)

    def __str__(self) -> str:
        return "\n  ".join(["", *self._told])
