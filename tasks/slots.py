"""This module keeps, in Redis, which slots are up and which models they hold.

child, when its models are loaded --announce--> celeriac:worker:WORKER --read_slots--> producers
worker's main process, every few seconds --refresh--> (keeps the record alive, drops slots of dead children)
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import cast

import redis

from tasks import keys
from tasks.messages import SlotRecord, pack, unpack
from worker_config.errors import MessageError


def announce(client: redis.Redis, slots: Iterable[SlotRecord]) -> None:
    """Tell that these slots are ready."""
    with client.pipeline() as pipe:
        for slot in slots:
            pipe.hset(keys.worker(slot.worker), str(slot.slot), pack(slot))
            pipe.expire(keys.worker(slot.worker), keys.WORKER_TTL_SECONDS)
            pipe.sadd(keys.WORKERS, slot.worker)
        pipe.expire(keys.WORKERS, keys.WORKER_TTL_SECONDS)
        pipe.execute()


def refresh(
    client: redis.Redis, worker: str, live_pids: Collection[int], known: Collection[SlotRecord]
) -> list[SlotRecord]:
    """Keep a worker's record alive, without the slots whose child has died; return the slots that are up.

    `known` is what the last call returned: a Redis that lost its data gets it again.
    """
    found = _slots_of(client, worker)
    pids = {slot.pid for slot in found}
    up = [slot for slot in found + [slot for slot in known if slot.pid not in pids] if slot.pid in live_pids]
    if stale := [str(slot.slot) for slot in found if slot.pid not in live_pids]:
        client.hdel(keys.worker(worker), *stale)
    announce(client, up)
    return up


def withdraw(client: redis.Redis, worker: str) -> None:
    """Forget a worker that ends."""
    client.delete(keys.worker(worker))
    client.srem(keys.WORKERS, worker)


def read_slots(client: redis.Redis) -> list[SlotRecord]:
    """Every slot of every worker that gave a sign of life lately."""
    slots = []
    for worker in sorted(cast("set[bytes]", client.smembers(keys.WORKERS))):
        found = _slots_of(client, worker.decode())
        if not found:
            client.srem(keys.WORKERS, worker)  # its record has expired
        slots += found
    return slots


def _slots_of(client: redis.Redis, worker: str) -> list[SlotRecord]:
    fields = cast("dict[bytes, bytes]", client.hgetall(keys.worker(worker)))
    slots = []
    for value in fields.values():
        try:
            slots.append(unpack(value, SlotRecord))
        except MessageError:
            continue  # a worker of another version; its slots are not for us
    return sorted(slots, key=lambda slot: slot.slot)
