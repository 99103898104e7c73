"""Lets a worker's main process live through a Redis that goes away, or has no memory left."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable
from typing import Any

from celery.worker import consumer
from kombu.transport.redis import Transport
from redis import RedisError
from redis.exceptions import OutOfMemoryError

from tasks.protocol import keys
from tasks.transport.connection import PASSING
from tasks.worker import message_cost
from worker_config.retry_policy import LONGEST_BACKOFF_SECONDS

logger = logging.getLogger(__name__)

# OutOfMemoryError: Redis 6.2 refuses in transactions even what would free memory, such as an acknowledgement.
# AttributeError: a channel that is closed while it holds messages looks for its connection, which is gone already.
# PASSING: of a server that has become a replica, cannot save, moves, or was given other rights, too.
_COUNTED_AS_LOST = (AttributeError, *PASSING)


class Consumer(consumer.Consumer):  # type: ignore[misc]
    """What takes chunks from Redis; connects again soon after Redis is back.

    Attributes:
        counted: children for which it takes chunks, where these are not all (`tasks/worker/resize.py`).
    """

    counted: int | None = None

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        message_cost.make_cheap(self.hub, self.pool)

    @property
    def max_prefetch_count(self) -> int:
        """One chunk more than there are children, so that none waits for Redis between two chunks.

        With a whole one for each child, a job of few chunks would leave other workers without. Celery begins with it
        anew after each lost connection.
        """
        children = self.pool.num_processes if self.counted is None else self.counted
        return int(children * self.prefetch_multiplier + 1)

    def on_close(self) -> None:
        """Let go of the connection: kombu has the loop look at each that there was, at every turn."""
        super().on_close()
        self.hub.on_tick -= {look for look in self.hub.on_tick if look.__module__ == Transport.__module__}

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
        connected = super().ensure_connected(conn)
        self._wait_until_it_takes_writes(inspection)
        gc.collect()  # channels of the connection before this one, and of tries that came to nothing
        return connected

    def _wait_until_it_takes_writes(self, inspection: Any) -> None:
        """A server that answers and does nothing else would be connected to again and again, without a pause."""
        main = getattr(self.app, "main_process", None)
        while main is not None:
            try:
                main.client.persist(keys.PROBE)  # which is never there
                return
            except OutOfMemoryError:
                return
            except RedisError as error:
                logger.warning("Redis does not do its part: %s; tried again", error)
                if inspection is not None:
                    inspection.redis_is_lost()
                time.sleep(LONGEST_BACKOFF_SECONDS)


def let_worker_live() -> None:
    """Take these errors for a lost connection, and so connect again; Celery ends the worker by them."""
    Transport.connection_errors = (*Transport.connection_errors, *_COUNTED_AS_LOST)
