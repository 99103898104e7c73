"""This module keeps, in Redis, how often a chunk was begun and what became of it, in one hash for each job.

    field       is                                                                          written by
    INDEX       deliveries, counted before work begins                                      child
    INDEX:at    what was to be run next (`poison_rows.Note`), from the second delivery on      child
    INDEX:why   what became of a child that ran the chunk (`poison_rows.Death`)                main process
    INDEX:deaths  how many there were of which anything could be learned                    main process
    INDEX:bad   records of the rows that are never run again                                child

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
from tasks.recovery.poison_rows import Death, Note, PoisonRows, Step, judge
from worker_config.errors import MessageError

# Of a chunk that was answered meanwhile nothing is noted: nobody would remove it.
_NOTE = """
local key, index, name, value = KEYS[1], unpack(ARGV)
if redis.call('HEXISTS', key, index) == 0 then return end
redis.call('HSET', key, index .. ':' .. name, value)
if name == 'bad' then redis.call('HDEL', key, index .. ':at', index .. ':why') end
"""

# Several copies of a chunk may run at a time. The last one that has noted anything is the one that tells; a death of
# another tells nothing as long as that one may live, and later no more than that there was one.
_TELL = """
local key, index, told, counts, worker, pid = KEYS[1], unpack(ARGV)
if redis.call('HEXISTS', key, index) == 0 then return end
local function read(name)
    local value = redis.call('HGET', key, index .. ':' .. name)
    return value and cmsgpack.unpack(value)
end
local at, why = read('at'), read('why')
if not at or (at.worker == worker and at.pid == tonumber(pid)) then
    redis.call('HSET', key, index .. ':why', told)
elseif not (why and why.worker == at.worker and why.pid == at.pid) then
    return
end
if counts == '1' then redis.call('HINCRBY', key, index .. ':deaths', 1) end
"""


def fields_of(index: int) -> list[str]:
    """All that the hash has of a chunk."""
    return [str(index), *(f"{index}:{name}" for name in ("at", "why", "deaths", "bad"))]


@dataclass
class Story:
    """What earlier deliveries of a chunk have come to.

    Attributes:
        note: what was noted last.
        death: what became of the child that noted it; None if nobody knows.
        bad: records of the rows that are never run again.
        deaths: how many children died, but for those beside one that has noted the chunk and may live.
    """

    note: Note | None = None
    death: Death | None = None
    deaths: int = 0
    bad: list[FailureRecord] = field(default_factory=list)

    def judge(self, batch_rows: int) -> tuple[PoisonRows | None, FailureRecord | None]:
        """See `poison_rows.judge`."""
        return judge(self.note, self.death, batch_rows) if self.note and self.death else (None, None)


def read(client: redis.Redis, message: ChunkMessage) -> Story:
    """What is known of a chunk that is delivered again.

    A worker that is not in Redis any more is gone, and its children with it.
    """
    key, (_, *fields) = keys.deliveries(message.job), fields_of(message.index)
    at, why, deaths, bad = cast("list[bytes | None]", client.hmget(key, fields))
    story = Story(_read(at, Note), _read(why, Death), int(deaths or 0), _read(bad, list[FailureRecord]) or [])
    note, death = story.note, story.death
    if note and not (death and (death.worker, death.pid) == (note.worker, note.pid)):
        story.death = None
        if not client.exists(keys.worker(note.worker)):
            story.death = Death(note.worker, note.pid, "Killed", f"the worker that ran it, {note.worker}, is gone")
            story.deaths = client.hincrby(key, f"{message.index}:deaths", 1)
    return story


def condemn(client: redis.Redis, message: ChunkMessage, bad: list[FailureRecord]) -> None:
    """Keep the rows that are never to be run again; what led to it has served."""
    client.eval(_NOTE, 1, keys.deliveries(message.job), message.index, "bad", msgspec.msgpack.encode(bad))


def write(client: redis.Redis, message: ChunkMessage, worker: str, step: Step) -> None:
    """Note what this child is about to run."""
    note = Note(worker, os.getpid(), step.start, step.stop, step.until, time.monotonic())
    client.eval(_NOTE, 1, keys.deliveries(message.job), message.index, "at", msgspec.msgpack.encode(note))


def tell(client: redis.Redis, message: ChunkMessage, death: Death) -> None:
    """Note what became of a child that ran the chunk."""
    counts = "1" if death.type else "0"
    told = msgspec.msgpack.encode(death)
    client.eval(_TELL, 1, keys.deliveries(message.job), message.index, told, counts, death.worker, death.pid)


def _read(data: bytes | None, form: Any) -> Any:
    try:
        return None if data is None else unpack(data, form)
    except MessageError:
        return None  # of a worker of another version
