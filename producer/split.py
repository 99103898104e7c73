"""This module cuts a data set into chunks, and chooses their size from what the answered ones took.

    batches at first --> chunks of `CHUNK_SECONDS`, within a byte limit --> smaller ones at the end

The last chunks shrink, so that all slots finish together.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from worker_config.errors import UsageError

# Long enough that a task's own cost, 2 to 3.5 ms, is about a hundredth; short enough to show progress and to retry.
CHUNK_SECONDS = 0.25
# A payload is in memory a few times at once: encoded, in the store, decoded, as a tensor.
MAX_CHUNK_BYTES = 16 * 2**20
# Redis does nothing else while it takes or gives a value.
MAX_REDIS_CHUNK_BYTES = 4 * 2**20
# One slow chunk must not be taken for the rule, nor the first ones, which pay for caches, remembered for ever.
REMEMBERED_CHUNKS = 8
# Before the first answers nothing is known: no chunk is more than this many times the largest that was answered.
GROWTH = 8
# What is left is cut into so many chunks for each slot.
CHUNKS_LEFT_PER_SLOT = 2


@dataclass(frozen=True, slots=True)
class Chunk:
    """The rows `[start, stop)` of a data set; `index` counts chunks from 0."""

    index: int
    start: int
    stop: int

    @property
    def rows(self) -> int:
        """How many rows the chunk has."""
        return self.stop - self.start


class Sizer:
    """Chunk sizes in whole batches, for one job.

    Args:
        batch_rows: rows in one call of the model.
        row_bytes: bytes of one row; None where they are measured on the first chunks.
        fixed_rows: the caller's own choice, which is then all that counts.
        max_bytes: of one chunk; a single row may have more.

    Raises:
        UsageError: `fixed_rows` is less than 1.
    """

    def __init__(
        self,
        batch_rows: int,
        row_bytes: float | None = None,
        fixed_rows: int | None = None,
        max_bytes: int = MAX_CHUNK_BYTES,
    ) -> None:
        if fixed_rows is not None and fixed_rows < 1:
            raise UsageError(f"chunk_rows is {fixed_rows}: it must be at least 1")
        self._batch_rows = batch_rows
        self._row_bytes = row_bytes or 0.0
        self._fixed_rows = fixed_rows
        self._max_bytes = max_bytes
        self._answered: deque[tuple[int, float]] = deque(maxlen=REMEMBERED_CHUNKS)
        self._largest = 0

    def sent(self, rows: int, payload_bytes: int) -> None:
        """Learn how large rows are."""
        if rows and payload_bytes:
            self._row_bytes = payload_bytes / rows

    def answered(self, rows: int, seconds: float) -> None:
        """Learn how long rows take in one slot."""
        self._answered.append((rows, seconds))
        self._largest = max(self._largest, rows)

    def next_rows(self, rows_left: int | None, slots: int) -> int:
        """Rows for the next chunk; `rows_left` is None where nobody knows."""
        if self._fixed_rows is not None:
            return self._fixed_rows
        if not self._answered:
            return self._whole_batches(self._batch_rows, rows_left, slots)
        rows, seconds = map(sum, zip(*self._answered, strict=True))
        wanted = rows * CHUNK_SECONDS / max(seconds, 1e-6)
        return self._whole_batches(min(wanted, GROWTH * self._largest), rows_left, slots)

    def _whole_batches(self, wanted: float, rows_left: int | None, slots: int) -> int:
        if rows_left is not None:
            wanted = min(wanted, rows_left / (CHUNKS_LEFT_PER_SLOT * max(1, slots)))
        batches = max(1, round(wanted / self._batch_rows))
        rows = batches * self._batch_rows
        if self._row_bytes and rows * self._row_bytes > self._max_bytes:
            rows = int(self._max_bytes // self._row_bytes)
            if rows > self._batch_rows:
                rows -= rows % self._batch_rows
        return max(1, rows)
