"""This module counts what each child of a worker has answered, in memory that it shares with the main process.

    child, after each answer --six numbers--> memory shared since the fork --> main process, when somebody asks

A chunk costs its child a microsecond for it, and nobody a system call: no pipe fills while the main process is busy,
and no file is written. Celery's own word of a task's end would not do, since it does not tell an answer from a chunk
that was dropped because its job is over.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from dataclasses import dataclass

# pid, chunks and rows of the slot's children before this one, of all of them, when a chunk was answered last.
_PLACE = struct.Struct("=qqqqqd")
# Only pages that are written to take memory.
_SLOTS = 4096


@dataclass(frozen=True)
class Done:
    """What a child has answered; `slot_chunks` are those of the children before it in its slot, too."""

    chunks: int = 0
    rows: int = 0
    slot_chunks: int = 0
    last_at: float = 0.0


class Tally:
    """What the children of one worker have answered; made before the first fork."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _SLOTS * _PLACE.size)

    def begin(self, slot: int) -> None:
        """Count for this process from now on, in this slot."""
        if slot < _SLOTS:
            _, _, _, chunks, rows, at = self._read(slot)
            _PLACE.pack_into(self._memory, slot * _PLACE.size, os.getpid(), chunks, rows, chunks, rows, at)

    def answered(self, slot: int, rows: int) -> None:
        """Count an answer of this process."""
        if slot < _SLOTS:
            pid, before, rows_before, chunks, all_rows, _ = self._read(slot)
            now = time.monotonic()
            _PLACE.pack_into(
                self._memory, slot * _PLACE.size, pid, before, rows_before, chunks + 1, all_rows + rows, now
            )

    def of(self, slot: int, pid: int) -> Done:
        """What this child has answered; nothing as long as it has not begun."""
        if slot >= _SLOTS:
            return Done()
        found, before, rows_before, chunks, rows, at = self._read(slot)
        own = (chunks - before, rows - rows_before) if found == pid else (0, 0)
        return Done(*own, chunks, at)

    def _read(self, slot: int) -> tuple[int, int, int, int, int, float]:
        return _PLACE.unpack_from(self._memory, slot * _PLACE.size)
