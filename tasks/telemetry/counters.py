"""Counts what each child of a worker has done, in memory that it shares with the main process.

child, after each answer and at each stage --numbers--> memory shared since the fork --> main process, when asked

A chunk costs its child microseconds for it, and nobody a system call: no pipe fills while the main process is busy,
and no file is written. Celery's own word of a task's end would not do, since it does not tell an answer from a chunk
that was dropped because its job is over. The counts are the slot's: a child goes on where the one before it ended.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import MutableSequence
from dataclasses import dataclass, field, fields
from typing import cast

from tasks.protocol.messages import STAGES
from tasks.telemetry.stopwatch import CELLS, seconds_in

# Only pages that are written to take memory.
_SLOTS = 4096


@dataclass(frozen=True)
class ChildTotals:
    """What a child has answered; `slot_chunks` are those of the children before it in its slot, too."""

    chunks: int = 0
    rows: int = 0
    slot_chunks: int = 0
    last_at: float = 0.0


@dataclass(frozen=True)
class Counts:
    """What was done, by a chunk or by all of them.

    Attributes:
        chunks: answered.
        rows: of these.
        rows_failed: of these, without an output.
        rows_nonfinite_inputs: of the rows with an output, those with a NaN or an infinity in what a model took.
        rows_nonfinite_outputs: the same in what a model or its function gave.
        chunks_again: of the chunks, those that had been delivered before.
        batches: calls of a model, or of a function that is one, that gave outputs.
        batch_rows: rows in them.
        batch_places: rows that they had room for.
    """

    chunks: int = 0
    rows: int = 0
    rows_failed: int = 0
    rows_nonfinite_inputs: int = 0
    rows_nonfinite_outputs: int = 0
    chunks_again: int = 0
    batches: int = 0
    batch_rows: int = 0
    batch_places: int = 0


@dataclass
class WorkerTotals:
    """What all children of a worker have done, those that are gone too.

    Attributes:
        children: that have held their models.
        stages: seconds up to now, by stage; together the time since each slot was first ready.
    """

    counts: Counts = field(default_factory=Counts)
    children: int = 0
    stages: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))


_NAMES = tuple(one.name for one in fields(Counts))
# A slot's whole numbers: pid, chunks and rows of the children before this one, children so far, counts; then when a
# chunk was answered last, and its stopwatch's cells.
_PID, _CHUNKS_BEFORE, _ROWS_BEFORE, _CHILDREN, _COUNTS = range(5)
_CHUNKS, _ROWS = _COUNTS, _COUNTS + 1
_LAST_AT = _COUNTS + len(_NAMES)
_WATCH = _LAST_AT + 1
_SIZE = _WATCH + CELLS


class Counters:
    """What the children of one worker have done; made before the first fork."""

    def __init__(self) -> None:
        memory = memoryview(mmap.mmap(-1, 8 * _SLOTS * _SIZE))
        self._whole, self._real = memory.cast("q"), memory.cast("d")

    def begin(self, slot: int) -> MutableSequence[float] | None:
        """Count for this process from now on, in this slot; gives its stopwatch's cells, None where there are none."""
        if slot >= _SLOTS:
            return None
        at, whole = slot * _SIZE, self._whole
        whole[at + _CHUNKS_BEFORE], whole[at + _ROWS_BEFORE] = whole[at + _CHUNKS], whole[at + _ROWS]
        whole[at + _CHILDREN] += 1
        whole[at + _PID] = os.getpid()
        return cast("MutableSequence[float]", self._real[at + _WATCH : at + _SIZE])

    def answered(self, slot: int, done: Counts) -> None:
        """Count an answer of this process."""
        if slot < _SLOTS:
            at = slot * _SIZE
            for place, name in enumerate(_NAMES, at + _COUNTS):
                self._whole[place] += getattr(done, name)
            self._real[at + _LAST_AT] = time.monotonic()

    def of(self, slot: int, pid: int) -> ChildTotals:
        """What this child has answered; nothing as long as it has not begun."""
        if slot >= _SLOTS:
            return ChildTotals()
        at, whole = slot * _SIZE, self._whole
        chunks, rows = whole[at + _CHUNKS], whole[at + _ROWS]
        is_its = whole[at + _PID] == pid
        own = (chunks - whole[at + _CHUNKS_BEFORE], rows - whole[at + _ROWS_BEFORE]) if is_its else (0, 0)
        return ChildTotals(*own, chunks, self._real[at + _LAST_AT])

    def totals(self) -> WorkerTotals:
        """What all children have done up to now."""
        totals, counts = WorkerTotals(), [0] * len(_NAMES)
        now = time.monotonic()
        for at in range(0, _SLOTS * _SIZE, _SIZE):
            if not self._whole[at + _PID]:  # no slot beyond it has begun
                break
            totals.children += self._whole[at + _CHILDREN]
            for number in range(len(_NAMES)):
                counts[number] += self._whole[at + _COUNTS + number]
            for stage, seconds in seconds_in(self._real[at + _WATCH : at + _SIZE], now).items():
                totals.stages[stage] += seconds
        totals.counts = Counts(*counts)
        return totals
