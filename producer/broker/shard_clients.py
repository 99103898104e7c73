"""Questions to all shards, which wait for none that is away.

question --each shard that is up--> answers by shard; errors of those that are not, by shard
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import redis

from tasks.transport.connection import broker_errors, connect
from worker_config.broker import shard_urls
from worker_config.errors import BrokerError, BrokerRefusedError
from worker_config.retry_policy import (
    COMMAND_RETRIES,
    SHARD_AWAY_SECONDS,
    SHARD_TIMEOUT_SECONDS,
    SOCKET_TIMEOUT_SECONDS,
)

Answered = TypeVar("Answered")

# Of shards that did not answer, when `for_each` asks them again, by the monotonic clock.
_away_until: dict[str, float] = {}


class ShardClients:
    """Of the servers at these URLs; threads may share them.

    Attributes:
        urls: in the setting's order.
        away: errors of shards that did not answer when they were asked last.
    """

    def __init__(self, urls: Sequence[str], clients: Sequence[redis.Redis]) -> None:
        self.urls: list[str] = list(urls)
        self.away: dict[int, BrokerError] = {}
        self._clients = list(clients)

    def each(self, ask: Callable[[redis.Redis], Answered], among: Iterable[int] | None = None) -> dict[int, Answered]:
        """What each shard answers that is up, of all or `among` these.

        Raises:
            BrokerError: none is; or one refuses us, which waiting does not mend.
        """
        asked = range(len(self.urls)) if among is None else sorted(among)
        return _each(asked, lambda shard: self.on(shard, ask), self.away)

    def on(self, shard: int, ask: Callable[[redis.Redis], Answered]) -> Answered:
        """What this one answers; raises BrokerError."""
        with broker_errors(self.urls[shard]):
            return ask(self._clients[shard])

    def close(self) -> None:
        """Close the connections."""
        for client in self._clients:
            client.close()


@contextmanager
def open_shards(
    url: str, *, retries: int = COMMAND_RETRIES, timeout_seconds: float = SOCKET_TIMEOUT_SECONDS
) -> Iterator[ShardClients]:
    """Clients of the shards at `url`, closed with the block; of several, each is asked once, and not for long."""
    urls = shard_urls(url)
    if len(urls) > 1:
        retries, timeout_seconds = 0, min(timeout_seconds, SHARD_TIMEOUT_SECONDS)
    shards = ShardClients(urls, [connect(one, retries=retries, timeout_seconds=timeout_seconds) for one in urls])
    try:
        yield shards
    finally:
        shards.close()


def ask_each(
    url: str,
    ask: Callable[[redis.Redis], Answered],
    *,
    retries: int = COMMAND_RETRIES,
    timeout_seconds: float = SOCKET_TIMEOUT_SECONDS,
) -> dict[int, Answered]:
    """What each shard at `url` answers, through clients for this one question; as `for_each`, and `open_shards`."""
    with open_shards(url, retries=retries, timeout_seconds=timeout_seconds) as shards:
        return for_each(url, lambda one: shards.on(shards.urls.index(one), ask))


def for_each(url: str, do: Callable[[str], Answered]) -> dict[int, Answered]:
    """What comes of the URL of each shard that is up; not of one that was away a moment ago, if others are up.

    Raises:
        BrokerError: none is; or one refuses us, which waiting does not mend.
    """
    urls, now = shard_urls(url), time.monotonic()
    up = [shard for shard, one in enumerate(urls) if _away_until.get(one, now) <= now]
    away: dict[int, BrokerError] = {}
    try:
        return _each(up or range(len(urls)), lambda shard: do(urls[shard]), away)
    finally:
        _away_until.update((urls[shard], time.monotonic() + SHARD_AWAY_SECONDS) for shard in away)


def _each(shards: Iterable[int], ask: Callable[[int], Answered], away: dict[int, BrokerError]) -> dict[int, Answered]:
    """Answers; into `away` go errors of those that do not answer, and out of it those that do."""
    answers: dict[int, Answered] = {}
    for shard in shards:
        try:
            answers[shard] = ask(shard)
            away.pop(shard, None)
        except BrokerRefusedError:
            raise
        except BrokerError as error:
            away[shard] = error
    if not answers and (failed := [away[shard] for shard in shards]):
        raise failed[0]
    return answers
