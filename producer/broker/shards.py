"""Shards as a producer knows them: which queue is on which.

    queue on the first shard    celeriac.0123456789ab
    the same on the second      celeriac.0123456789ab@1

A name with a number goes no further than this process: workers know one shard alone, and no numbers.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from tasks.protocol.records import SlotRecord


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
