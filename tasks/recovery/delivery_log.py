"""Keeps, in Redis, how often a chunk was begun and what became of it, in one hash for each job.

    field       is                                                                          written by
    INDEX       deliveries, counted before work begins                                      child
    INDEX:at    what was to be run next (`poison_rows.RunIntent`), from the second delivery on  child
    INDEX:why   what became of a child that ran the chunk (`poison_rows.ChildDeath`)           main process
    INDEX:deaths  how many there were of which anything could be learned                    main process
    INDEX:bad   records of the rows that are never run again                                child
    INDEX:yielded  the note to which another delivery has yielded                           child

An answer ends them all (`tasks/transport/publish_answer.py`), so the hash is as small as what is open.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec
import redis

from tasks.protocol import keys
from tasks.protocol.messages import ChunkMessage, FailureRecord, unpack
from tasks.recovery.poison_rows import ChildDeath, PoisonRows, RowRange, RunIntent, judge
from tasks.transport import scripts
from worker_config.errors import MessageError


@dataclass
class DeliveryHistory:
    """What earlier deliveries of a chunk have come to.

    Attributes:
        note: what was noted last.
        death: what became of the child that noted it; None if nobody knows.
        bad: records of the rows that are never run again.
        deaths: how many children died, but for those beside one that has noted the chunk and may live.
        yielded_to: the note to which a delivery has yielded.
    """

    note: RunIntent | None = None
    death: ChildDeath | None = None
    deaths: int = 0
    bad: list[FailureRecord] = field(default_factory=list)
    yielded_to: RunIntent | None = None

    def judge(self, batch_rows: int) -> tuple[PoisonRows | None, FailureRecord | None]:
        """See `poison_rows.judge`."""
        return judge(self.note, self.death, batch_rows) if self.note and self.death else (None, None)


def read(client: redis.Redis, message: ChunkMessage) -> DeliveryHistory:
    """What is known of a chunk that is delivered again.

    A worker that is not in Redis any more is gone, and its children with it.
    """
    key, (_, *fields) = keys.deliveries(message.job), keys.delivery_fields(message.index)
    at, why, deaths, bad, yielded = cast("list[bytes | None]", client.hmget(key, fields))
    history = DeliveryHistory(
        _read(at, RunIntent),
        _read(why, ChildDeath),
        int(deaths or 0),
        _read(bad, list[FailureRecord]) or [],
        _read(yielded, RunIntent),
    )
    note, death = history.note, history.death
    if note and not (death and (death.worker, death.pid) == (note.worker, note.pid)):
        history.death = None
        if not client.exists(keys.worker(note.worker)):
            history.death = ChildDeath(
                note.worker, note.pid, "Killed", f"the worker that ran it, {note.worker}, is gone"
            )
            history.deaths = client.hincrby(key, f"{message.index}:deaths", 1)
    return history


def yields(client: redis.Redis, message: ChunkMessage, worker: str, history: DeliveryHistory) -> bool:
    """Whether this delivery of rows that kill is one too many: another, which may live, has noted them.

    It yields to each note once: whoever wrote it may have lost the chunk without dying.
    """
    note = history.note
    if note is None or history.death or not history.deaths or (note.worker, note.pid) == (worker, os.getpid()):
        return False
    if note == history.yielded_to:
        return False
    _note(client, message, "yielded", note)
    return True


def exclude_rows(client: redis.Redis, message: ChunkMessage, bad: list[FailureRecord]) -> None:
    """Keep the rows that are never to be run again; what led to it has served."""
    _note(client, message, "bad", bad)


def record_intent(client: redis.Redis, message: ChunkMessage, worker: str, step: RowRange) -> None:
    """Note what this child is about to run."""
    note = RunIntent(worker, os.getpid(), step.start, step.stop, step.until, time.monotonic())
    _note(client, message, "at", note)


def record_death(client: redis.Redis, message: ChunkMessage, death: ChildDeath) -> None:
    """Note what became of a child that ran the chunk."""
    values = [message.index, msgspec.msgpack.encode(death), "1" if death.type else "0", death.worker, death.pid]
    scripts.run(client, "note_death", [keys.deliveries(message.job)], values)


def _note(client: redis.Redis, message: ChunkMessage, name: str, value: Any) -> None:
    values = [message.index, name, msgspec.msgpack.encode(value)]
    scripts.run(client, "note_delivery", [keys.deliveries(message.job)], values)


def _read(data: bytes | None, form: Any) -> Any:
    try:
        return None if data is None else unpack(data, form)
    except MessageError:
        return None  # of a worker of another version
