"""Waits for an item of any of several lists, each on a server of its own; Redis itself waits on one server alone.

lists --BLPOP on a connection each--> poll --whichever has something--> items
"""

from __future__ import annotations

import select
from collections.abc import Collection
from contextlib import suppress
from typing import Any

import redis


class BlockedPop:
    """A blocking command that is sent in one step and read in another; used by one thread.

    What has been sent stays so from wait to wait: an item that comes between them is not lost.
    """

    def __init__(self, client: redis.Redis, key: str) -> None:
        self._pool, self._key = client.connection_pool, key
        self._connection: Any = None
        self._is_sent = False

    def send(self, seconds: float) -> None:
        """Ask for an item, unless it has been asked for, and is awaited up to so long; raises redis.RedisError."""
        if self._is_sent:
            return
        if self._connection is None:
            self._connection = self._pool.get_connection()
        self._connection.send_command("BLPOP", self._key, seconds)
        self._is_sent = True

    def fileno(self) -> int:
        """What can be polled, once it has been sent."""
        return int(self._connection._sock.fileno())

    def read(self) -> bytes | None:
        """The item, or None where none came in time; raises redis.RedisError. To be called where there is an answer."""
        self._is_sent = False
        reply = self._connection.read_response(disable_decoding=True)
        return bytes(reply[1]) if reply else None

    @property
    def has_answer(self) -> bool:
        """Whether `read` would not wait."""
        return self._is_sent and bool(self._connection.can_read(timeout=0))

    def close(self) -> None:
        """Give up the connection, and what has been asked for."""
        connection, self._connection, self._is_sent = self._connection, None, False
        if connection is not None:
            with suppress(redis.RedisError, OSError):
                connection.disconnect()
            self._pool.release(connection)


def wait_for_any(pops: Collection[BlockedPop], seconds: float) -> None:
    """Until one of them has an answer, or so long."""
    poll = select.poll()
    for pop in pops:
        poll.register(pop.fileno(), select.POLLIN)
    poll.poll(seconds * 1_000)
