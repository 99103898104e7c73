"""Chooses the shard that a worker belongs to, where the broker's setting names several.

URLs of shards --how many workers has each?--> the one with fewest, in turn where several have as few

A worker that was killed is on record for a while, and must not keep its successor from their shard, which may have no
other: where several seem to have as few, those count no more that let the time of a heartbeat pass without one.

A worker and its children are connected to this one alone, as if there were no other: with connections of every child to
every shard, ten thousand slots would be more than a Redis takes. Producers know all shards, and spread their chunks.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import redis

from tasks.protocol import keys
from tasks.protocol.records import WorkerFacts
from tasks.transport.connection import broker_errors, connect
from tasks.transport.worker_registry import read_all
from worker_config.broker import redacted, shard_urls
from worker_config.errors import BrokerError, BrokerRefusedError
from worker_config.retry_policy import HEARTBEAT_SECONDS, LONGEST_BACKOFF_SECONDS, QUEUE_TTL_SECONDS

# Of one command. Shards that start together with their workers are waited for a little, or the first one has them all.
_ANSWER_SECONDS = 2.0
_PATIENCE_SECONDS = 10.0
# In which each worker that lives gives a sign of it.
_HEARTBEAT_COMES_SECONDS = HEARTBEAT_SECONDS + 1.0


@dataclass(frozen=True)
class Shard:
    """One of several: its URL, its place in the setting, what it has, and what its workers told last."""

    url: str
    place: int
    workers: int
    slots: int
    told: Mapping[str, WorkerFacts] = field(default_factory=dict)


def choose_home(url: str) -> str:
    """The URL of the shard for a worker that starts now; waits until one is up.

    Raises:
        BrokerRefusedError: one refuses the login, which waiting does not mend.
    """
    urls = shard_urls(url)
    if len(urls) == 1:
        return url
    until = time.monotonic() + _PATIENCE_SECONDS
    up = _wait_until_up(urls, until)
    fewest = min(shard.workers for shard in up)
    if fewest and sum(shard.workers == fewest for shard in up) > 1:
        time.sleep(_HEARTBEAT_COMES_SECONDS)
        up = _wait_until_up(urls, until, {name: facts for shard in up for name, facts in shard.told.items()})
    home = least_loaded(up, _turn(up[0].url))
    print(
        f"celeriac: belongs to shard {home.place + 1} of {len(urls)}, {redacted(home.url)}", file=sys.stderr, flush=True
    )
    return home.url


def least_loaded(up: list[Shard], turn: int) -> Shard:
    """The shard with fewest workers, then slots; of several alike the one whose turn it is."""
    return min(up, key=lambda one: (one.workers, one.slots, (one.place - turn) % (1 + max(of.place for of in up))))


def _wait_until_up(urls: list[str], until: float, told: Mapping[str, WorkerFacts] | None = None) -> list[Shard]:
    """The shards that are up: all, or, after `until`, some; without workers that have told nothing since `told`."""
    while True:
        up, away = _look(urls, told or {})
        if up and (not away or time.monotonic() > until):
            return up
        for error in away:
            print(f"celeriac: {error} Trying again.", file=sys.stderr, flush=True)
        time.sleep(LONGEST_BACKOFF_SECONDS)


def _look(urls: list[str], told: Mapping[str, WorkerFacts]) -> tuple[list[Shard], list[BrokerError]]:
    """The shards that are up, and what is wrong with the others."""
    up: list[Shard] = []
    away: list[BrokerError] = []
    for place, url in enumerate(urls):
        try:
            with broker_errors(url), connect(url, retries=0, timeout_seconds=_ANSWER_SECONDS) as client:
                workers, _, facts = read_all(client)
        except BrokerRefusedError:
            raise
        except BrokerError as error:
            away.append(error)
        else:
            # Each heartbeat tells of the clock anew; who prepares models, or is of a version that does not, of nothing.
            for name, now in facts.items():
                if now == told.get(name) != WorkerFacts():
                    del workers[name]
            up.append(Shard(url, place, len(workers), sum(map(len, workers.values())), facts))
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
