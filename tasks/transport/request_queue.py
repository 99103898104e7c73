"""The lists of requests in Redis: put in by callers, taken by children, each step in one command or script.

    submit --> celeriac:requests:QUEUE --take--> celeriac:taken:WORKER:SLOT --answer--> channel of the caller

A child that has answered takes what waits in the same step.

What a child has taken stays in its list until it is answered, so that nothing is lost with the child.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import redis
import redis.asyncio

from tasks.protocol import keys
from tasks.protocol.requests import MAX_WAITING, MAX_WAITING_BYTES
from tasks.transport import scripts
from worker_config.retry_policy import REQUEST_TTL_SECONDS

_BOUNDS = (MAX_WAITING, MAX_WAITING_BYTES, REQUEST_TTL_SECONDS)


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


class TakenList:
    """What a child has taken and not answered, by a connection of its own.

    Args:
        connection: of redis-py, with no command under way.
        taken: the key of the child's list.
        database: whose channels callers have.
        most_rows: of a batch.
        most_bytes: of its requests.
    """

    def __init__(self, connection: Any, taken: str, database: int, most_rows: int, most_bytes: int) -> None:
        self._connection = connection
        self._taken = taken
        self._values = most_rows, most_bytes, keys.answers_channel("", database), REQUEST_TTL_SECONDS

    def block(self, queue: str, seconds: float) -> None:
        """Ask for the first request that comes within some time; `read` gives it."""
        self._connection.send_command("BLMOVE", keys.requests(queue), self._taken, "LEFT", "RIGHT", seconds)

    def read(self) -> bytes | None:
        """What the read that blocks gave; None where its time is up."""
        return cast("bytes | None", self._connection.read_response())

    def left(self) -> list[bytes]:
        """What is in the list."""
        self._connection.send_command("LRANGE", self._taken, 0, -1)
        return cast("list[bytes]", self._connection.read_response())

    def take(self, queue: str, first: bytes) -> Taken:
        """Those of this request's group that wait behind it; it is in the list already."""
        of_first, run, late = self._script(queue, "taken", {})
        {b"run": run, b"late": late}.get(of_first, []).insert(0, first)
        return Taken(run, late)

    def answer(self, queue: str, answers: Mapping[str, bytes], *, take: bool) -> Taken | None:
        """Give callers their answers, and forget what was taken; with `take`, take what waits first, and its group.

        None where nothing waits, or is to be taken.
        """
        found = self._script(queue, "waiting" if take else "none", answers)
        return None if found is None else Taken(*found[1:])

    def _script(self, queue: str, first: str, answers: Mapping[str, bytes]) -> Any:
        held = keys.requests(queue), self._taken
        words = (word for pair in answers.items() for word in pair)
        return scripts.run_on(self._connection, "take_requests", held, [first, *self._values, *words])


def missing(client: redis.Redis, lists: Sequence[str], ids: Iterable[str]) -> set[str]:
    """Those of these requests that are in none of the lists."""
    return {one.decode() for one in scripts.run(client, "missing_requests", lists, [REQUEST_TTL_SECONDS, *ids])}


def withdraw(client: redis.Redis, queue: str, ids: Iterable[str]) -> None:
    """Take requests back that no child has taken."""
    scripts.run(client, "withdraw_requests", [keys.requests(queue)], list(ids))


async def withdraw_async(client: redis.asyncio.Redis, queue: str, ids: Iterable[str]) -> None:
    """The same in an event loop."""
    await scripts.run_async(client, "withdraw_requests", [keys.requests(queue)], list(ids))
