"""What must be so after a job, whatever happened to it: nothing is left but what says that it was there."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import cast

import redis

from tasks.protocol import keys
from tasks.transport.worker_registry import read_slots
from tests.chaos.scene import Scene
from tests.systems import queues
from tests.waiting import is_alive, wait_until
from worker_config.broker import KEY_PREFIX
from worker_config.retry_policy import UNANSWERED_TTL_SECONDS

UNACKED, UNACKED_INDEX = f"{KEY_PREFIX}unacked", f"{KEY_PREFIX}unacked_index"
# Celery's own, which know no time to live: which queues there are, and what workers have taken and not done.
_CELERYS = re.compile(rf"{KEY_PREFIX}(_kombu\.|unacked|{re.escape('celeriac.')}[0-9a-f]{{12}}$|.*\.pidbox)")
_OUTLIVES = re.compile(rf"{KEY_PREFIX}(jobs|queues|sharing:.*|workers|worker:.*|job:[0-9a-f]{{12}}(:timeline)?)")


def check_nothing_is_left(scene: Scene) -> None:
    """No message, payload, output, answer or file of the job."""
    check_nothing_is_left_of([scene.job_id(), *scene.dead_jobs], scene.server, scene.arena.orphans)
    _eventually(lambda: [path for path in scene.spool.glob("*/*") if path.parent.name not in scene.arena.orphans])


def check_nothing_is_left_of(jobs: list[str], server: redis.Redis, orphans: Sequence[str] = ()) -> None:
    """No message, payload, output or answer of these jobs; of the orphans, what will go by itself."""
    wait_until(lambda: not _waiting(server, jobs), "workers have drained the queues")
    _come_back(server, jobs)
    wait_until(lambda: not _waiting(server, jobs), "workers have drained what came back")
    _eventually(lambda: keys_left(server, orphans))


def check_ledger(scene: Scene, rows: int, ledger: dict[str, int]) -> None:
    """Every row is predicted and written once."""
    assert (ledger["rows"], ledger["predicted"], ledger["written"]) == (rows, rows, rows), ledger
    assert (ledger["failed"], ledger["skipped"], ledger["duplicates_differing"]) == (0, 0, 0), ledger
    if not scene.dead_jobs:  # the ledger of one that was killed is gone
        assert ledger["duplicates"] >= scene.doubled, ledger


def _waiting(server: redis.Redis, jobs: list[str]) -> list[bytes]:
    """Messages of these jobs that no worker has taken."""
    messages = [message for key in queues(server) for message in cast("list[bytes]", server.lrange(key, 0, -1))]
    return [message for message in messages if _is_of(message, jobs)]


def _is_of(message: bytes, jobs: list[str]) -> bool:
    return any(job.encode() in message for job in jobs)


def _come_back(server: redis.Redis, jobs: list[str]) -> None:
    """What dead workers had taken comes back when Celery's visibility timeout is over: let it be over."""

    def taken() -> list[bytes]:
        unacked = cast("dict[bytes, bytes]", server.hgetall(UNACKED))
        return [tag for tag, message in unacked.items() if _is_of(message, jobs)]

    def gone() -> bool:
        tags = taken()
        if tags:
            server.zadd(UNACKED_INDEX, {tag.decode(): 0.0 for tag in tags}, xx=True)
        return not tags

    wait_until(gone, "no worker has a message of the job")


def keys_left(server: redis.Redis, orphans: Sequence[str]) -> list[str]:
    """Keys that should not be there; with a time to live, those of a killed producer's job may be, what requests a
    killed worker had taken, and outputs of which a killed child did not tell, for as long as these live."""
    left = []
    living = [keys.taken(slot.worker, slot.slot) for slot in read_slots(server) if is_alive(slot.pid)]
    for key in cast("list[bytes]", list(server.scan_iter("*"))):
        name = key.decode()
        if _CELERYS.match(name):
            continue
        known = _OUTLIVES.fullmatch(name) or any(name.startswith(f"{keys.job(job)}:") for job in orphans)
        known = known or (name.startswith(f"{KEY_PREFIX}taken:") and name not in living)
        known = known or (":output:" in name and server.ttl(name) <= UNANSWERED_TTL_SECONDS)
        if not known or server.ttl(name) == -1:
            left.append(name)
    return left


def _eventually(left: Callable[[], list[object]] | Callable[[], list[str]]) -> None:
    """What is late may be deleted a moment after the job's end."""
    try:
        wait_until(lambda: not left(), "nothing is left", 20)
    except AssertionError:
        assert not left(), f"left: {left()}"
