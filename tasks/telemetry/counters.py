"""Counts what each child of a worker has done, in memory that it shares with the main process.

child, after each answer and at each stage --numbers--> memory shared since the fork --> main process, when asked
child that waits for a store ---since when, for what---^

A chunk costs its child microseconds for it, and nobody a system call: no pipe fills while the main process is busy,
and no file is written. Celery's own word of a task's end would not do, since it does not tell an answer from a chunk
that was dropped because its job is over. The counts are the slot's: a child goes on where the one before it ended.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from collections.abc import MutableSequence
from dataclasses import dataclass, field, fields
from typing import Any, cast

from tasks.protocol.messages import STAGES
from tasks.telemetry.stopwatch import CELLS, seconds_in, stage_in

# Only pages that are written to take memory.
_SLOTS = 4096
# Of what a child waits for, in words.
_MOST_WORDS_BYTES = 512
# Those in which a chunk stands still while a store is waited for; in others something is fetched or sent beside it.
_STORE_STAGES = ("fetch", "decode", "store")


def _count(text: str) -> int:
    counted: int = field(default=0, metadata={"text": text})
    return counted


@dataclass(frozen=True)
class Counts:
    """What was done, by a chunk or by all of them; each with a text for people."""

    chunks: int = _count("Chunks answered.")
    requests: int = _count("Requests answered.")
    rows: int = _count("Rows of the chunks and requests answered.")
    rows_failed: int = _count("Rows without an output, as answers told.")
    rows_nonfinite_inputs: int = _count("Rows with an output of which a model took a NaN or an infinity.")
    rows_nonfinite_outputs: int = _count("Rows with an output that holds a NaN or an infinity.")
    chunks_again: int = _count("Chunks answered that had been delivered before.")
    batches: int = _count("Calls of models, or of functions that are models, that gave outputs.")
    batch_rows: int = _count("Rows in these calls.")
    batch_places: int = _count("Rows that these calls had room for.")


@dataclass
class WorkerTotals:
    """What all children of a worker have done, those that are gone too.

    Attributes:
        children: that have held their models.
        stages: seconds up to now, by stage; together the time since each slot was first ready.
        last_at: when a chunk was answered last; 0 where none was.
    """

    counts: Counts = field(default_factory=Counts)
    children: int = 0
    stages: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))
    last_at: float = 0.0


_NAMES = tuple(one.name for one in fields(Counts))


class _Slot(ctypes.Structure):
    """A slot's numbers; those "before" are of the children before this one."""

    _fields_ = (
        ("pid", ctypes.c_int64),
        ("chunks_before", ctypes.c_int64),
        ("requests_before", ctypes.c_int64),
        ("rows_before", ctypes.c_int64),
        ("children", ctypes.c_int64),
        *((name, ctypes.c_int64) for name in _NAMES),
        ("last_at", ctypes.c_double),
        ("cells", ctypes.c_double * CELLS),
        ("waits_since", ctypes.c_double),
        ("waits_for", ctypes.c_char * _MOST_WORDS_BYTES),
    )


class Counters:
    """What the children of one worker have done; created before the first fork."""

    def __init__(self) -> None:
        self._slots = (_Slot * _SLOTS).from_buffer(mmap.mmap(-1, _SLOTS * ctypes.sizeof(_Slot)))

    def begin(self, slot: int) -> MutableSequence[float]:
        """Count for this process from now on, in this slot; gives its stopwatch's cells."""
        own = self._slot(slot)
        own.chunks_before, own.requests_before, own.rows_before = own.chunks, own.requests, own.rows
        own.children += 1
        own.waits_since = 0.0
        own.pid = os.getpid()
        return cast("MutableSequence[float]", own.cells)

    def answered(self, slot: int, done: Counts) -> None:
        """Count an answer of this process."""
        own = self._slot(slot)
        for name in _NAMES:
            setattr(own, name, getattr(own, name) + getattr(done, name))
        own.last_at = time.monotonic()

    def waits(self, slot: int, since: float, what: str) -> None:
        """The child of this slot waits for a store, since then; for nothing any more where that is 0."""
        own = self._slot(slot)
        # In this order: who looks in between sees no wait, never half a text.
        own.waits_since = 0.0
        own.waits_for = what.encode(errors="replace")[: _MOST_WORDS_BYTES - 1]
        own.waits_since = since

    def wait_of(self, slot: int, pid: int) -> tuple[float, str]:
        """Since when this child's chunk stands still for a store, and for what; 0 and no text where it does not."""
        own = self._slot(slot)
        since, what = own.waits_since, own.waits_for
        if own.pid != pid or not since or own.waits_since != since or stage_in(own.cells) not in _STORE_STAGES:
            return 0.0, ""
        return since, what.decode(errors="ignore")

    def of(self, slot: int, pid: int) -> tuple[int, int, int]:
        """The chunks, the requests and the rows that this child has answered; none as long as it has not begun."""
        own = self._slot(slot)
        if own.pid != pid:
            return 0, 0, 0
        return own.chunks - own.chunks_before, own.requests - own.requests_before, own.rows - own.rows_before

    def totals(self) -> WorkerTotals:
        """What all children have done up to now."""
        totals, counts = WorkerTotals(), dict.fromkeys(_NAMES, 0)
        now = time.monotonic()
        for one in self._slots:
            if not one.pid:  # no slot beyond it has begun
                break
            totals.children += one.children
            totals.last_at = max(totals.last_at, one.last_at)
            for name in _NAMES:
                counts[name] += getattr(one, name)
            for stage, seconds in seconds_in(one.cells, now).items():
                totals.stages[stage] += seconds
        totals.counts = Counts(**counts)
        return totals

    def _slot(self, number: int) -> Any:
        return self._slots[number] if number < _SLOTS else _Slot()  # that nobody counts
