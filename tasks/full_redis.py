"""This module lets workers live through a Redis that has no memory left.

main process: an acknowledgement is refused --taken for a lost connection--> Celery connects again, later
child: an answer is refused --wait--> tried again
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from kombu.transport.redis import Transport
from redis.exceptions import OutOfMemoryError

T = TypeVar("T")

LEAST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 2.0


def let_worker_live() -> None:
    """Celery ends a worker by the error else: Redis 6.2 refuses even what would free memory, in a transaction."""
    if OutOfMemoryError not in Transport.connection_errors:
        Transport.connection_errors = (*Transport.connection_errors, OutOfMemoryError)


def when_there_is_room(write: Callable[[], T], timeout_seconds: float) -> T:
    """What `write` returns, as soon as Redis takes it.

    Raises:
        OutOfMemoryError: it did not for so long.
    """
    deadline, pause = time.monotonic() + timeout_seconds, LEAST_PAUSE_SECONDS
    while True:
        try:
            return write()
        except OutOfMemoryError:
            if time.monotonic() > deadline:
                raise
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
