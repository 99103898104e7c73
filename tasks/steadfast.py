"""This module lets a worker's main process live through a Redis that goes away, or has no memory left."""

from __future__ import annotations

from kombu.transport.redis import Transport
from redis.exceptions import OutOfMemoryError

# OutOfMemoryError: Redis 6.2 refuses in transactions even what would free memory, such as an acknowledgement.
# AttributeError: a channel that is closed while it holds messages looks for its connection, which is gone already.
_TAKEN_FOR_LOST = (OutOfMemoryError, AttributeError)


def let_worker_live() -> None:
    """Take these errors for a lost connection, and so connect again; Celery ends the worker by them."""
    Transport.connection_errors = (*Transport.connection_errors, *_TAKEN_FOR_LOST)
