"""This module lets a worker's main process live through a Redis that has no memory left."""

from __future__ import annotations

from kombu.transport.redis import Transport
from redis.exceptions import OutOfMemoryError


def let_worker_live() -> None:
    """Take a refusal for a lost connection: Celery then connects again, and hands back what it could not acknowledge.

    Else it ends the worker. Redis 6.2 refuses in transactions even what would free memory, such as an acknowledgement.
    """
    if OutOfMemoryError not in Transport.connection_errors:
        Transport.connection_errors = (*Transport.connection_errors, OutOfMemoryError)
