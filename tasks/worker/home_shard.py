"""Chooses the shard that a worker belongs to, where the broker's setting names several.

URLs of shards --how many workers has each?--> the one with fewest, in turn where several have as few

A worker and its children are connected to this one alone, as if there were no other: with connections of every child to
every shard, ten thousand slots would be more than a Redis takes. Producers know all shards, and spread their chunks.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

import redis

from tasks.protocol import keys
from tasks.transport.connection import broker_errors, connect
from tasks.transport.worker_registry import read_all
from worker_config.broker import redacted, shard_urls
from worker_config.errors import BrokerError, BrokerRefusedError
from worker_config.retry_policy import LONGEST_BACKOFF_SECONDS, QUEUE_TTL_SECONDS

# Of one command. Shards that start together with their workers are waited for a little, or the first one has them all.
_ANSWER_SECONDS = 2.0
_PATIENCE_SECONDS = 10.0


@dataclass(frozen=True)
class Shard:
    """One of several: its URL, its place in the setting, and what it has."""

    url: str
    place: int
    workers: int
    slots: int


def choose_home(url: str) -> str:
    """The URL of the shard for a worker that starts now; waits until one is up.

    Raises:
        BrokerRefusedError: one refuses the login, which waiting does not mend.
    """
    urls = shard_urls(url)
    if len(urls) == 1:
        return url
    until = time.monotonic() + _PATIENCE_SECONDS
    while True:
        up, away = _look(urls)
        if up and (not away or time.monotonic() > until):
            break
        for error in away:
            print(f"celeriac: {error} Trying again.", file=sys.stderr, flush=True)
        time.sleep(LONGEST_BACKOFF_SECONDS)
    home = least_loaded(up, _turn(up[0].url))
    print(
        f"celeriac: belongs to shard {home.place + 1} of {len(urls)}, {redacted(home.url)}", file=sys.stderr, flush=True
    )
    return home.url


def least_loaded(up: list[Shard], turn: int) -> Shard:
    """The shard with fewest workers, then slots; of several alike the one whose turn it is."""
    return min(up, key=lambda one: (one.workers, one.slots, (one.place - turn) % (1 + max(of.place for of in up))))


def _look(urls: list[str]) -> tuple[list[Shard], list[BrokerError]]:
    """The shards that are up, and what is wrong with the others."""
    up: list[Shard] = []
    away: list[BrokerError] = []
    for place, url in enumerate(urls):
        try:
            with broker_errors(url), connect(url, retries=0, timeout_seconds=_ANSWER_SECONDS) as client:
                workers = read_all(client)[0]
        except BrokerRefusedError:
            raise
        except BrokerError as error:
            away.append(error)
        else:
            up.append(Shard(url, place, len(workers), sum(map(len, workers.values()))))
    return up, away


def _turn(url: str) -> int:
    """A number that grows by one for each worker: those that start together see the same shards, all of them empty."""
    try:
        with broker_errors(url), connect(url, retries=0, timeout_seconds=_ANSWER_SECONDS) as client:
            return _count(client)
    except BrokerError:
        return time.monotonic_ns()


def _count(client: redis.Redis) -> int:
    with client.pipeline() as pipe:
        pipe.hincrby(keys.HOMES, "workers", 1)
        pipe.expire(keys.HOMES, QUEUE_TTL_SECONDS)
        return int(pipe.execute()[0])
