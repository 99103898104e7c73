"""Lets a worker's main process live through a Redis that goes away, or has no memory left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery.worker import consumer
from kombu.transport.redis import Transport
from redis.exceptions import OutOfMemoryError

from worker_config.retry_policy import LONGEST_BACKOFF_SECONDS

# OutOfMemoryError: Redis 6.2 refuses in transactions even what would free memory, such as an acknowledgement.
# AttributeError: a channel that is closed while it holds messages looks for its connection, which is gone already.
_COUNTED_AS_LOST = (OutOfMemoryError, AttributeError)


class Consumer(consumer.Consumer):  # type: ignore[misc]
    """What takes chunks from Redis; connects again soon after Redis is back."""

    def ensure_connected(self, conn: Any) -> Any:
        """Connect, however long it takes."""
        ensure = conn.ensure_connection
        # See `tasks.worker.main_process`; there is no inspection before the children are ready.
        inspection = getattr(getattr(self.app, "main_process", None), "inspection", None)

        def patiently(*args: Any, callback: Callable[[], Any] | None = None, **options: Any) -> Any:
            def between_tries() -> None:
                if inspection is not None:
                    inspection.redis_is_lost()
                if callback is not None:
                    callback()

            return ensure(*args, callback=between_tries, interval_max=LONGEST_BACKOFF_SECONDS, **options)

        conn.ensure_connection = patiently
        return super().ensure_connected(conn)


def let_worker_live() -> None:
    """Take these errors for a lost connection, and so connect again; Celery ends the worker by them."""
    Transport.connection_errors = (*Transport.connection_errors, *_COUNTED_AS_LOST)
