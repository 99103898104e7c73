"""This module keeps, in Redis, which slots are up and which models they hold.

child, when its models are loaded --announce--> celeriac:worker:WORKER --read_slots--> producers
worker's main process, every few seconds --refresh--> (keeps the record alive, drops slots of dead children)

A worker that has no slot for a while, since its only child is being replaced, is still there: its record has the field
`main` as long as its main process lives.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any, cast

import redis

from tasks import keys, queues
from tasks.messages import SlotRecord, pack, unpack
from worker_config.errors import MessageError

_MAIN = b"main"


def announce(client: redis.Redis, slots: Iterable[SlotRecord]) -> None:
    """Tell that these slots are ready."""
    with client.pipeline() as pipe:
        for slot in slots:
            pipe.hset(keys.worker(slot.worker), str(slot.slot), pack(slot))
            pipe.expire(keys.worker(slot.worker), keys.WORKER_TTL_SECONDS)
            pipe.sadd(keys.WORKERS, slot.worker)
            queues.note(pipe, [slot.queue])
        pipe.expire(keys.WORKERS, keys.WORKER_TTL_SECONDS)
        pipe.execute()


def refresh(
    client: redis.Redis,
    worker: str,
    live_pids: Collection[int],
    known: Collection[SlotRecord],
    told_by: Callable[[SlotRecord], SlotRecord] = lambda slot: slot,
) -> list[SlotRecord]:
    """Keep a worker's record alive, without the slots whose child has died; return the slots that are up.

    `known` is what the last call returned: a Redis that lost its data gets it again. `told_by` brings a record up to
    date.
    """
    found = _slots_in(_fields_of(client, worker))
    pids = {slot.pid for slot in found}
    up = [slot for slot in found + [slot for slot in known if slot.pid not in pids] if slot.pid in live_pids]
    up = [told_by(slot) for slot in up]
    fields = {_MAIN: b"", **{str(slot.slot).encode(): pack(slot) for slot in up}}
    with client.pipeline() as pipe:
        if stale := [str(slot.slot) for slot in found if slot.pid not in live_pids]:
            pipe.hdel(keys.worker(worker), *stale)
        pipe.hset(keys.worker(worker), mapping=cast("dict[Any, Any]", fields))
        pipe.expire(keys.worker(worker), keys.WORKER_TTL_SECONDS)
        pipe.sadd(keys.WORKERS, worker)
        pipe.expire(keys.WORKERS, keys.WORKER_TTL_SECONDS)
        queues.note(pipe, {slot.queue for slot in up} | {one.queue for slot in up for one in slot.older})
        pipe.execute()
    return up


def withdraw(client: redis.Redis, worker: str) -> None:
    """Forget a worker that ends."""
    client.delete(keys.worker(worker))
    client.srem(keys.WORKERS, worker)


def read_slots(client: redis.Redis) -> list[SlotRecord]:
    """Every slot of every worker that gave a sign of life lately."""
    return [slot for slots in read_workers(client).values() for slot in slots]


def read_workers(client: redis.Redis) -> dict[str, list[SlotRecord]]:
    """Every worker that gave a sign of life lately, with its slots; it may have none for a while."""
    workers = {}
    for worker in sorted(cast("set[bytes]", client.smembers(keys.WORKERS))):
        fields = _fields_of(client, worker.decode())
        if fields:
            workers[worker.decode()] = _slots_in(fields)
        else:
            client.srem(keys.WORKERS, worker)  # its record has expired
    return workers


def _fields_of(client: redis.Redis, worker: str) -> dict[bytes, bytes]:
    return cast("dict[bytes, bytes]", client.hgetall(keys.worker(worker)))


def _slots_in(fields: dict[bytes, bytes]) -> list[SlotRecord]:
    slots = []
    for name, value in fields.items():
        try:
            if name != _MAIN:
                slots.append(unpack(value, SlotRecord))
        except MessageError:
            continue  # a worker of another version; its slots are not for us
    return sorted(slots, key=lambda slot: slot.slot)
