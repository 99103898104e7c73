"""What is killed at a moment, as long as it is there; what then is gone is started anew."""

from __future__ import annotations

import os
import random
import signal
from contextlib import suppress

import redis

from tests.chaos.arena import Arena
from tests.waiting import descendants_of, is_alive, wait_until


def kill_child(arena: Arena, draw: random.Random) -> None:
    children = [pid for worker in arena.ready_workers() for pid in descendants_of(worker.pid)]
    if children:
        pid = draw.choice(children)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not is_alive(pid), "the child is dead")


def kill_worker(arena: Arena, draw: random.Random) -> None:
    there = [worker for worker in arena.ready_workers() if worker not in arena.dismissed]
    if there:
        arena.kill(draw.choice(there))
        arena.start_worker()


def kill_redis(arena: Arena, draw: random.Random) -> None:
    arena.system.redis.stop()
    if draw.random() < 0.5:
        arena.system.redis.forget()
    arena.system.redis.start()
    arena.pids.add(arena.system.redis.pid)

    def answers() -> bool:
        with suppress(redis.RedisError):
            return bool(arena.hasty.ping())
        return False

    wait_until(answers, "Redis answers")
