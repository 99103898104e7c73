"""What the injuries of the wider schedules do, in the form of `tests.chaos.injuries`, and the proof that they did."""

from __future__ import annotations

from collections.abc import Callable

import psutil
import pytest
import redis

from tests.chaos.calls import Idleness
from tests.chaos.injuries import ANSWERS_TTL_SECONDS, MARKER, Course, at_once, further, pick
from tests.chaos.scene import Scene
from tests.chaos.schedule import Injury, Kind
from tests.chaos.wide_arena import WideArena
from tests.waiting import has_status, wait_until

# By the draw of how long an injury holds.
CLOCK_STEPS = (-86_400.0, -3_600.0, -60.0, 60.0, 3_600.0, 86_400.0)
DELAY_SECONDS = 0.05
BYTES_PER_SECOND = 400_000
# Chunks that are predicted meanwhile, for each of those that an injury holds.
LINK_HOLD = 5


def producer_stopped(scene: Scene, injury: Injury) -> Course:
    pid = scene.stop_producer()
    wait_until(lambda: has_status(pid, psutil.STATUS_STOPPED), "the producer stands still")
    yield Idleness(scene.calls, scene.predicted_chunks)
    scene.continue_producer()
    wait_until(lambda: not has_status(pid, psutil.STATUS_STOPPED), "the producer goes on")


def redis_full(scene: Scene, injury: Injury) -> Course:
    scene.server.config_set("maxmemory", 1)
    with pytest.raises(redis.exceptions.OutOfMemoryError):
        scene.server.set(MARKER, "no room", ex=ANSWERS_TTL_SECONDS)
    yield Idleness(scene.calls)
    scene.server.config_set("maxmemory", 0)
    assert scene.server.set(MARKER, "room", ex=1)


def disk_full(scene: Scene, injury: Injury) -> Course:
    arena = _arena(scene)
    if not arena.has_disk:  # where nobody may mount one; the other injuries are as they would be
        yield at_once
        return
    arena.fill_disk()
    yield further(scene, injury)
    arena.empty_disk()


def clock_stepped(scene: Scene, injury: Injury) -> Course:
    arena, worker = _arena(scene), pick(scene.workers(), injury)
    arena.step_clock(worker, CLOCK_STEPS[injury.hold - 1])
    yield further(scene, injury, LINK_HOLD)
    arena.step_clock(worker, 0.0)


def link_slow(scene: Scene, injury: Injury) -> Course:
    link = _arena(scene).link
    link.delay_seconds, before = DELAY_SECONDS, link.pieces
    wait_until(lambda: link.pieces > before, "something passes")
    yield further(scene, injury, LINK_HOLD)
    link.delay_seconds = 0.0


def link_throttled(scene: Scene, injury: Injury) -> Course:
    link = _arena(scene).link
    link.bytes_per_second, before = BYTES_PER_SECOND, link.bytes_passed
    wait_until(lambda: link.bytes_passed > before, "something passes")
    yield further(scene, injury, LINK_HOLD)
    link.bytes_per_second = 0


def messages_cut(scene: Scene, injury: Injury) -> Course:
    link = _arena(scene).link
    link.cuts = injury.hold
    yield lambda: not link.cuts


def _arena(scene: Scene) -> WideArena:
    assert isinstance(scene.arena, WideArena)
    return scene.arena


COURSES: dict[Kind, Callable[[Scene, Injury], Course]] = {
    Kind.PRODUCER_STOPPED: producer_stopped,
    Kind.REDIS_FULL: redis_full,
    Kind.DISK_FULL: disk_full,
    Kind.CLOCK_STEPPED: clock_stepped,
    Kind.LINK_SLOW: link_slow,
    Kind.LINK_THROTTLED: link_throttled,
    Kind.MESSAGES_CUT: messages_cut,
}
