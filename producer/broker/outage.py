"""A shard that is away, or full, while others are up: a thread asks it until it does its part again."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection

from producer.broker import redis_backoff
from producer.broker.broker_channel import room_of
from tasks.transport.connection import broker_errors, check_takes_writes, connect
from worker_config.broker import redacted
from worker_config.errors import BrokerError, BrokerFullError, BrokerRefusedError
from worker_config.retry_policy import LEAST_BACKOFF_SECONDS

logger: logging.Logger = logging.getLogger(__name__)


class Outage:
    """From the moment on at which a shard failed.

    Attributes:
        error: by which it did.
        is_full: whether it only takes no more: what it has can be read, and deleted.
        is_over: whether it is back.
        refused: what it says to us, if it has refused us for long; None otherwise.
    """

    def __init__(self, url: str, error: BrokerError) -> None:
        self.error = error
        self.is_full: bool = isinstance(error, BrokerFullError)
        self.is_over: bool = False
        self.refused: BrokerRefusedError | None = None
        self._url, self._wake, self._given_up = url, threading.Event(), False
        threading.Thread(target=self._wait, name=f"celeriac: waits for {redacted(url)}", daemon=True).start()

    def give_up(self) -> None:
        """Nobody waits for it any more."""
        self._given_up = True
        self._wake.set()

    def _wait(self) -> None:
        ask = _check_has_room if self.is_full else check_takes_writes
        while not (self.is_over or self._given_up):
            try:
                redis_backoff.wait_for_redis(self._url, 0, self._wake, lambda: self._given_up, ask)
                self.is_over = not self._given_up
            except BrokerRefusedError as error:
                if self.refused is None:
                    logger.error("%s; it is asked on", error)
                self.refused = error


def wait_for_any_outage(outages: Collection[Outage], wake: threading.Event, is_over: Callable[[], bool]) -> None:
    """Until one of them is over, or nobody waits any more; `wake` is set when that may be.

    Raises:
        BrokerRefusedError: all of these shards have refused us for long.
    """
    while not (is_over() or any(outage.is_over for outage in outages)):
        refused = [outage.refused for outage in outages if outage.refused]
        if len(refused) == len(outages):
            raise refused[0]
        wake.wait(LEAST_BACKOFF_SECONDS)
        wake.clear()


def _check_has_room(url: str) -> None:
    """Raise BrokerError unless the server has as much room as chunks are sent for: else it were full again at once."""
    check_takes_writes(url)
    with broker_errors(url), connect(url, retries=0) as client:
        if room_of(client) <= 0:
            raise BrokerFullError(f"Redis at {redacted(url)} is full")
