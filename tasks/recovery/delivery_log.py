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
from tasks.protocol.seal import Sealer, note_context
from tasks.recovery.poison_rows import ChildDeath, PoisonRows, RowRange, RunIntent, judge
from tasks.transport import scripts
from worker_config.errors import MessageError, SealError


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


class DeliveryLog:
    """What is noted of one chunk; each note is sealed."""

    def __init__(self, client: redis.Redis, sealer: Sealer, message: ChunkMessage) -> None:
        self._client, self._sealer = client, sealer
        self._job, self._index = message.job, message.index
        self._key = keys.deliveries(message.job)

    def read(self) -> DeliveryHistory:
        """What is known of a chunk that is delivered again.

        A worker that is not in Redis any more is gone, and its children with it.
        """
        _, *fields = keys.delivery_fields(self._index)
        at, why, deaths, bad, yielded = cast("list[bytes | None]", self._client.hmget(self._key, fields))
        history = DeliveryHistory(
            self._open("at", at, RunIntent),
            self._open("why", why, ChildDeath),
            int(deaths or 0),
            self._open("bad", bad, list[FailureRecord]) or [],
            self._open("yielded", yielded, RunIntent),
        )
        note, death = history.note, history.death
        if note and not (death and (death.worker, death.pid) == (note.worker, note.pid)):
            history.death = None
            if not self._client.exists(keys.worker(note.worker)):
                gone = f"the worker that ran it, {note.worker}, is gone"
                history.death = ChildDeath(note.worker, note.pid, "Killed", gone)
                history.deaths = self._client.hincrby(self._key, f"{self._index}:deaths", 1)
        return history

    def yields(self, worker: str, history: DeliveryHistory) -> bool:
        """Whether this delivery of rows that kill is one too many: another, which may live, has noted them.

        It yields to each note once: whoever wrote it may have lost the chunk without dying.
        """
        note = history.note
        if note is None or history.death or not history.deaths or (note.worker, note.pid) == (worker, os.getpid()):
            return False
        if note == history.yielded_to:
            return False
        self._note("yielded", note)
        return True

    def exclude_rows(self, bad: list[FailureRecord]) -> None:
        """Keep the rows that are never to be run again; what led to it has served."""
        self._note("bad", bad)

    def record_intent(self, worker: str, step: RowRange) -> None:
        """Note what this child is about to run."""
        self._note("at", RunIntent(worker, os.getpid(), step.start, step.stop, step.until, time.monotonic()))

    def record_death(self, death: ChildDeath) -> None:
        """Note what became of a child that ran the chunk."""
        sealed = self._seal("why", death)
        values = [self._index, sealed, "1" if death.type else "0", death.worker, death.pid]
        scripts.run(self._client, "note_death", [self._key], values)

    def _note(self, name: str, value: Any) -> None:
        scripts.run(self._client, "note_delivery", [self._key], [self._index, name, self._seal(name, value)])

    def _seal(self, name: str, value: Any) -> bytes:
        context = note_context(self._job, self._index, name)
        return self._sealer.seal_bytes(context, msgspec.msgpack.encode(value))

    def _open(self, name: str, sealed: bytes | None, form: Any) -> Any:
        try:
            context = note_context(self._job, self._index, name)
            return unpack(self._sealer.open(context, sealed), form) if sealed else None
        except (MessageError, SealError):
            return None  # of a worker of another version, or damaged: the rows are looked for anew
