"""The registry, in Redis, of which slots are up and which models they hold.

child, when its models are loaded --register_slots--> celeriac:worker:WORKER --read_slots--> producers
worker's main process, every few seconds --heartbeat--> (keeps the record alive, drops slots of dead children)
child --save_slot--> its worker's folder --saved_slots--> main process, should Redis have lost what it registered

A worker that has no slot for a while, since its only child is being replaced, is still there: its record has the field
`main` as long as its main process lives; in it stands what the worker tells of itself (`tasks/protocol/records.py`).
One that prepares its models, and has no slot yet, has the field `preparing` (`tasks/protocol/preparing.py`).
One that drains has this field alone, and is not among the workers that producers read, but in a set of its own for
people: what it ran may end, and its notes count as those of a worker that lives.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import msgspec
import redis
from redis.exceptions import NoPermissionError

from tasks.protocol import keys
from tasks.protocol.messages import pack, unpack
from tasks.protocol.preparing import Preparing, unpack_preparing
from tasks.protocol.records import SlotRecord, WorkerFacts, pack_facts, unpack_facts
from tasks.transport import queues, run_folder
from worker_config.errors import MessageError
from worker_config.files import write_whole
from worker_config.retry_policy import REQUEST_TTL_SECONDS, WORKER_TTL_SECONDS

_MAIN, _PREPARING = b"main", b"preparing"
# Records that are kept as they were read last.
_MOST_KNOWN = 16_384


def announce(client: redis.Redis, worker: str, preparing: Preparing) -> None:
    """Tell that a worker will have slots, and what it does until then."""
    with client.pipeline() as pipe:
        _tell(pipe, worker, {_PREPARING: msgspec.msgpack.encode(preparing)})
        pipe.execute()


def _tell(pipe: Any, worker: str, fields: dict[bytes, bytes], among: str = keys.WORKERS) -> None:
    """Write fields of a worker's record, and its name among those that live."""
    pipe.hset(keys.worker(worker), mapping=fields)
    pipe.expire(keys.worker(worker), WORKER_TTL_SECONDS)
    pipe.sadd(among, worker)
    pipe.expire(among, WORKER_TTL_SECONDS)


def withdraw(client: redis.Redis, worker: str) -> None:
    """Take back that it prepares; without slots it is forgotten."""
    client.hdel(keys.worker(worker), _PREPARING.decode())
    if not client.exists(keys.worker(worker)):
        client.srem(keys.WORKERS, worker)


def register_slots(client: redis.Redis, slots: Iterable[SlotRecord]) -> None:
    """Tell that these slots are ready."""
    with client.pipeline() as pipe:
        for slot in slots:
            _tell(pipe, slot.worker, {str(slot.slot).encode(): pack(slot)})
            queues.note(pipe, [slot.queue])
        pipe.execute()


def save_slot(folder: Path, slot: SlotRecord) -> None:
    """Keep a slot's record where its main process finds it, in place of that of the child before."""
    with suppress(OSError):  # a full disk; Redis will hardly lose its data at this moment
        write_whole(run_folder.slot_path(folder, slot.slot), pack(slot))


def saved_slots(folder: Path) -> list[SlotRecord]:
    """The records of all slots; some may be of children that have died."""
    return _slots_in({path.name.encode(): path.read_bytes() for path in folder.glob(run_folder.SLOT_FILES)})


def heartbeat(
    client: redis.Redis,
    worker: str,
    live_pids: Collection[int],
    known: Collection[SlotRecord],
    updated: Callable[[SlotRecord], SlotRecord] = lambda slot: slot,
    facts: WorkerFacts | None = None,
) -> list[SlotRecord]:
    """Keep a worker's record alive, without the slots whose child has died; return the slots that are up.

    `known` are slots that Redis should have, whichever children they are of: one that lost its data gets them again.
    `updated` brings a record up to date. `facts` are told with them, and how far the clocks are apart.
    """
    with client.pipeline(transaction=False) as pipe:
        pipe.hgetall(keys.worker(worker))
        pipe.time()
        asked = time.time()
        stored, its_time = pipe.execute()
    found, clock_ahead = _slots_in(stored), clock_ahead_of(its_time, asked, time.time())
    slots = {slot.pid: slot for slot in (*known, *found)}
    up = [updated(slot) for pid, slot in slots.items() if pid in live_pids]
    main = pack_facts(facts, clock_ahead) if facts else b""
    fields = {_MAIN: main, **{str(slot.slot).encode(): pack(slot) for slot in up}}
    with client.pipeline() as pipe:
        if stale := [str(slot.slot) for slot in found if slot.pid not in live_pids]:
            pipe.hdel(keys.worker(worker), *stale)
        _tell(pipe, worker, fields)
        pipe.srem(keys.DRAINING, worker)
        for slot in up:  # the command by which its child takes a request gives the list no time to live
            pipe.expire(keys.taken(worker, slot.slot), REQUEST_TTL_SECONDS)
        queues.note(pipe, {slot.queue for slot in up} | {one.queue for slot in up for one in slot.older})
        pipe.execute()
    return up


def deregister_slots(client: redis.Redis, worker: str, consumed: Collection[str], facts: WorkerFacts) -> None:
    """Tell that a worker lives and has no slots, since it drains; its queues are kept."""
    with client.pipeline() as pipe:
        pipe.srem(keys.WORKERS, worker)
        pipe.delete(keys.worker(worker))
        _tell(pipe, worker, {_MAIN: pack_facts(facts, facts.clock_ahead)}, keys.DRAINING)
        queues.note(pipe, consumed)
        pipe.execute()


def deregister(client: redis.Redis, worker: str, slots: Iterable[SlotRecord] = ()) -> None:
    """Forget a worker that ends, and requests that its slots have and nobody runs: callers see that they are gone."""
    client.delete(keys.worker(worker), *(keys.taken(worker, slot.slot) for slot in slots))
    client.srem(keys.WORKERS, worker)
    client.srem(keys.DRAINING, worker)


def read_slots(client: redis.Redis) -> list[SlotRecord]:
    """Every slot of every worker that gave a sign of life lately."""
    return [slot for slots in read_workers(client).values() for slot in slots]


def read_workers(client: redis.Redis) -> dict[str, list[SlotRecord]]:
    """Every worker that gave a sign of life lately, with its slots; it may have none for a while."""
    return read_all(client)[0]


def read_all(
    client: redis.Redis,
) -> tuple[dict[str, list[SlotRecord]], dict[str, Preparing], dict[str, WorkerFacts]]:
    """The same, and what those tell that prepare their models and have no slot yet, and the others; read at once."""
    workers, preparing, facts = {}, {}, {}
    names = sorted(cast("set[bytes]", client.smembers(keys.WORKERS)))
    for name, fields in _read_hashes(client, names).items():
        if fields:
            workers[name] = _slots_in(fields)
            told = unpack_preparing(fields.get(_PREPARING))
            if told and not workers[name]:  # else the other children follow
                preparing[name] = told
            facts[name] = unpack_facts(fields.get(_MAIN)) or WorkerFacts()
        else:
            # Its record has expired. Who may look alone leaves the rest to others.
            with suppress(NoPermissionError):
                client.srem(keys.WORKERS, name)
    return workers, preparing, facts


@dataclass(frozen=True)
class WorkerRecord:
    """All that a worker tells, for people."""

    slots: list[SlotRecord]
    preparing: Preparing | None
    facts: WorkerFacts


def read_records(client: redis.Redis) -> dict[str, WorkerRecord]:
    """Every worker that gave a sign of life lately, those that drain too."""
    with client.pipeline(transaction=False) as pipe:
        pipe.smembers(keys.WORKERS)
        pipe.smembers(keys.DRAINING)
        serving, draining = pipe.execute()
    return {
        name: WorkerRecord(
            _slots_in(fields),
            unpack_preparing(fields.get(_PREPARING)),
            unpack_facts(fields.get(_MAIN)) or WorkerFacts(),
        )
        for name, fields in _read_hashes(client, sorted(serving | draining)).items()
        if fields
    }


def _read_hashes(client: redis.Redis, names: Iterable[bytes]) -> dict[str, dict[bytes, bytes]]:
    workers = [name.decode() for name in names]
    with client.pipeline(transaction=False) as pipe:
        for worker in workers:
            pipe.hgetall(keys.worker(worker))
        return dict(zip(workers, pipe.execute(), strict=True))


def read_facts(client: redis.Redis, workers: Iterable[str]) -> dict[str, WorkerFacts | None]:
    """What each worker tells of itself; None where it has not yet, or is of a version that does not."""
    stored = {worker: client.hget(keys.worker(worker), _MAIN.decode()) for worker in workers}
    return {worker: unpack_facts(cast("bytes | None", data)) for worker, data in stored.items()}


def clock_ahead_of(its_time: tuple[int, int], asked: float, answered: float) -> float:
    """Seconds by which this machine's clock is ahead of that of Redis, which said its time between these two."""
    return (asked + answered) / 2 - (its_time[0] + its_time[1] / 1e6)


def seconds_left(client: redis.Redis, workers: Iterable[str]) -> dict[str, float]:
    """When each worker's record will expire, should no sign of life come."""
    names = list(workers)
    with client.pipeline(transaction=False) as pipe:
        for worker in names:
            pipe.pttl(keys.worker(worker))
        return {worker: left / 1_000 for worker, left in zip(names, pipe.execute(), strict=True)}


def _slots_in(fields: dict[bytes, bytes]) -> list[SlotRecord]:
    slots = (_slot(value) for name, value in fields.items() if name not in (_MAIN, _PREPARING))
    return sorted(filter(None, slots), key=lambda slot: slot.slot)


@lru_cache(_MOST_KNOWN)
def _slot(data: bytes) -> SlotRecord | None:
    """A record is what it was a second ago, nearly always; None of another version, whose slot is not for us."""
    with suppress(MessageError):
        slot: SlotRecord = unpack(data, SlotRecord)
        return slot
    return None
