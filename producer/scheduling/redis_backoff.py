"""Waits for a Redis that is away, or full, with pauses that grow."""

from __future__ import annotations

import threading
from collections.abc import Callable

from tasks.transport.connection import ping
from worker_config.errors import BrokerError, BrokerRefusedError
from worker_config.retry_policy import LEAST_BACKOFF_SECONDS, LONGEST_BACKOFF_SECONDS


def wait_for_redis(url: str, tries: int, wake: threading.Event, is_over: Callable[[], bool]) -> None:
    """Return when it answers, or nobody waits any more; `wake` is set when that may be.

    Args:
        tries: outages in a row so far: one that answers, and still does not do its part, is left alone for longer.

    Raises:
        BrokerRefusedError: it refuses the user or password.
    """
    while not is_over():
        wake.wait(min(LEAST_BACKOFF_SECONDS * 2**tries, LONGEST_BACKOFF_SECONDS))
        wake.clear()
        tries += 1
        try:
            return ping(url)
        except BrokerRefusedError:
            raise
        except BrokerError:
            continue
