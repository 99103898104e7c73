"""The lists of requests in Redis: put in by callers, taken by children, each step in one command or script.

    submit --> celeriac:requests:QUEUE --take--> celeriac:taken:WORKER:SLOT --answer--> channel of the caller

What a child has taken stays in its list until it is answered, so that nothing is lost with the child.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import redis
import redis.asyncio

from tasks.protocol import keys
from tasks.protocol.requests import MAX_WAITING, MAX_WAITING_BYTES, TTL_SECONDS
from tasks.transport import scripts

_BOUNDS = (MAX_WAITING, MAX_WAITING_BYTES, TTL_SECONDS)


class QueueFullError(Exception):
    """So many requests wait that no more are taken; `waiting` is how many."""

    def __init__(self, waiting: int) -> None:
        super().__init__(f"{waiting} requests wait")
        self.waiting = waiting


@dataclass(frozen=True)
class Taken:
    """Requests that a child has taken: those to run, and those whose time is up."""

    run: list[bytes] = field(default_factory=list)
    late: list[bytes] = field(default_factory=list)


def submit(client: redis.Redis, queue: str, elements: Sequence[bytes]) -> int:
    """Put requests at the end; how many wait with them.

    Raises:
        QueueFullError: too many wait already; none was put in.
    """
    return _not_full(scripts.run(client, "submit_requests", [keys.requests(queue)], [*_BOUNDS, *elements]))


async def submit_async(client: redis.asyncio.Redis, queue: str, elements: Sequence[bytes]) -> int:
    """The same in an event loop."""
    held, values = [keys.requests(queue)], [*_BOUNDS, *elements]
    return _not_full(await scripts.run_async(client, "submit_requests", held, values))


def _not_full(waiting: int) -> int:
    if waiting < 0:
        raise QueueFullError(-waiting)
    return waiting


def take(
    client: redis.Redis, queue: str, taken: str, database: int, most_rows: int, most_bytes: int, first: bytes | None
) -> Taken | None:
    """The request that waits first, and those of its group that wait behind it, up to so many rows and bytes.

    `first` is the one that is in the list `taken` already, if there is one. None where nothing waits; nothing is in
    the list where there is nothing to run, nor to be told that it is late.
    """
    values = [int(first is not None), most_rows, most_bytes, keys.answers_channel("", database), TTL_SECONDS]
    found = scripts.run(client, "take_requests", [keys.requests(queue), taken], values)
    if found is None:
        return None
    of_first, run, late = found
    if first is not None:
        {b"run": run, b"late": late}.get(of_first, []).insert(0, first)
    return Taken(run, late)


def answer(client: redis.Redis, taken: str, database: int, answers: Mapping[str, bytes]) -> None:
    """Give callers their answers, and forget what was taken."""
    with client.pipeline(transaction=False) as pipe:
        for caller, packed in answers.items():
            pipe.publish(keys.answers_channel(caller, database), packed)
        pipe.unlink(taken)
        pipe.execute()


def missing(client: redis.Redis, lists: Sequence[str], ids: Iterable[str]) -> set[str]:
    """Those of these requests that are in none of the lists."""
    return {one.decode() for one in scripts.run(client, "missing_requests", lists, list(ids))}


def withdraw(client: redis.Redis, queue: str, ids: Iterable[str]) -> None:
    """Take requests back that no child has taken."""
    scripts.run(client, "withdraw_requests", [keys.requests(queue)], list(ids))


async def withdraw_async(client: redis.asyncio.Redis, queue: str, ids: Iterable[str]) -> None:
    """The same in an event loop."""
    await scripts.run_async(client, "withdraw_requests", [keys.requests(queue)], list(ids))
