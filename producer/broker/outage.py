"""A shard that is away, while others are up: a thread asks it until it does its part again."""

from __future__ import annotations

import logging
import threading

from producer.broker import redis_backoff
from worker_config.broker import redacted
from worker_config.errors import BrokerError

logger: logging.Logger = logging.getLogger(__name__)


class Outage:
    """From the moment on at which a shard failed.

    Attributes:
        error: by which it did.
        is_over: whether it is back.
    """

    def __init__(self, url: str, error: BrokerError) -> None:
        self.error = error
        self.is_over: bool = False
        self._url, self._wake, self._given_up = url, threading.Event(), False
        threading.Thread(target=self._wait, name=f"celeriac: waits for {redacted(url)}", daemon=True).start()

    def give_up(self) -> None:
        """Nobody waits for it any more."""
        self._given_up = True
        self._wake.set()

    def _wait(self) -> None:
        try:
            redis_backoff.wait_for_redis(self._url, 0, self._wake, lambda: self._given_up)
            self.is_over = not self._given_up
        except BrokerError as error:
            logger.error("%s; it is not asked any more", error)
