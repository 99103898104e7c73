"""Shards as a producer knows them: which queue is on which, and what each of them answers.

    queue on the first shard    celeriac.0123456789ab
    the same on the second      celeriac.0123456789ab@1

A name with a number goes no further than this process: workers know one shard alone, and no numbers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TypeVar

import msgspec
import redis

from tasks.protocol.records import SlotRecord
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

# Of shards that did not answer, when they are asked again, by the monotonic clock.
_away_until: dict[str, float] = {}


def on_shard(queue: str, shard: int) -> str:
    """The name of a queue on a shard."""
    return f"{queue}@{shard}" if shard else queue


def shard_of(queue: str) -> int:
    """The shard that a queue's name tells."""
    return int(queue.partition("@")[2] or 0)


def name_of(queue: str) -> str:
    """The queue's name as workers know it."""
    return queue.partition("@")[0]


def slots_on(shard: int, slots: Iterable[SlotRecord]) -> list[SlotRecord]:
    """The same slots with the names of their queues on this shard."""
    if not shard:
        return list(slots)
    return [
        msgspec.structs.replace(
            slot,
            queue=on_shard(slot.queue, shard),
            older=[msgspec.structs.replace(one, queue=on_shard(one.queue, shard)) for one in slot.older],
        )
        for slot in slots
    ]


def slots_of(shard: int, slots: Iterable[SlotRecord]) -> list[SlotRecord]:
    """Those of these slots that are on this shard, with the names of their queues as workers know them."""
    return [
        msgspec.structs.replace(
            slot,
            queue=name_of(slot.queue),
            older=[msgspec.structs.replace(one, queue=name_of(one.queue)) for one in slot.older],
        )
        for slot in slots
        if shard_of(slot.queue) == shard
    ]


def ask_each(url: str, ask: Callable[[redis.Redis], Answered]) -> dict[int, Answered]:
    """What each shard answers that is up.

    Raises:
        BrokerError: none is, or the only server is not; or one refuses us, which waiting does not mend.
    """
    several = len(shard_urls(url)) > 1
    retries, seconds = (0, SHARD_TIMEOUT_SECONDS) if several else (COMMAND_RETRIES, SOCKET_TIMEOUT_SECONDS)

    def ask_one(one: str) -> Answered:
        with broker_errors(one), connect(one, retries=retries, timeout_seconds=seconds) as client:
            return ask(client)

    return for_each(url, ask_one)


def for_each(url: str, do: Callable[[str], Answered]) -> dict[int, Answered]:
    """The same with the URL of each; one that was away a moment ago is left out, if others are up."""
    urls, now = shard_urls(url), time.monotonic()
    tried = [shard for shard, one in enumerate(urls) if _away_until.get(one, now) <= now] or range(len(urls))
    answers: dict[int, Answered] = {}
    failed: list[BrokerError] = []
    for shard in tried:
        try:
            answers[shard] = do(urls[shard])
        except BrokerRefusedError:
            raise
        except BrokerError as error:
            failed.append(error)
            _away_until[urls[shard]] = time.monotonic() + SHARD_AWAY_SECONDS
    if failed and not answers:
        raise failed[0]
    return answers
