"""Waits for a Redis that is away, or full, with pauses that grow."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from tasks.transport.connection import check_takes_writes
from worker_config.errors import BrokerError, BrokerRefusedError
from worker_config.retry_policy import LEAST_BACKOFF_SECONDS, LONGEST_BACKOFF_SECONDS, REFUSED_WAIT_SECONDS


def wait_for_redis(
    url: str,
    tries: int,
    wake: threading.Event,
    is_over: Callable[[], bool],
    ask: Callable[[str], object] = check_takes_writes,
) -> None:
    """Return when it answers, or nobody waits any more; `wake` is set when that may be.

    Args:
        tries: outages in a row so far: one that answers, and still does not do its part, is left alone for longer.
        ask: raises a BrokerError if it does not do its part.

    Raises:
        BrokerRefusedError: it has refused the user, the password or a right for long.
    """
    began = time.monotonic()
    while not is_over():
        wake.wait(min(LEAST_BACKOFF_SECONDS * 2**tries, LONGEST_BACKOFF_SECONDS))
        wake.clear()
        tries += 1
        try:
            ask(url)
            return
        except BrokerRefusedError:
            if time.monotonic() - began > REFUSED_WAIT_SECONDS:
                raise
        except BrokerError:
            continue
