"""Cuts a data set into chunks, and chooses their size from what the answered ones took.

    batches at first --> chunks of `CHUNK_SECONDS`, within a byte limit --> smaller ones at the end

The last chunks shrink, so that all slots finish together.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from tasks.protocol.messages import StoreName
from worker_config.errors import UsageError

# Long enough that a task's own cost, 2 to 3.5 ms, is about a hundredth; short enough to show progress and to retry.
CHUNK_SECONDS = 0.25
# A payload is in memory a few times at once: encoded, in the store, decoded, as a tensor.
MAX_CHUNK_BYTES = 16 * 2**20
# Of a split a worker has the rows once.
MAX_SPLIT_BYTES = 32 * 2**20
# Redis does nothing else while it takes or gives a value.
MAX_REDIS_CHUNK_BYTES = 2 * 2**20
# The heads of a payload must not cost a whole batch of it.
SLACK = 1.01
# One slow chunk must not be taken for the rule, nor the first ones, which pay for caches, remembered for ever.
REMEMBERED_CHUNKS = 8
# Where nothing is known of the model's speed: no chunk is more than this many times the largest that was answered.
GROWTH = 8
# The first chunks of a function of which nothing is known: each costs more than one of its rows, in all likelihood.
FIRST_STEP_ROWS = 8
# What is left is cut into so many chunks for each slot; once some are answered, of this share of a full one at least.
CHUNKS_LEFT_PER_SLOT = 2
LEAST_SHARE = 1 / 8


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


class ChunkSizer:
    """Chunk sizes in whole batches, for one job.

    Args:
        batch_rows: rows in one call of the model.
        row_bytes: bytes of one row; None where they are measured on the first chunks.
        output_row_bytes: bytes of one row of the outputs, as far as that is known; measured as well.
        batch_seconds: what one call of the model takes; 0 where nobody knows.
        store: the way of the rows, which do not travel where workers read slices; through Redis chunks are smaller.
        first_rows: of the first chunks, where `batch_rows` says nothing of what is worth a chunk.
        fixed_rows: the caller's own choice, which is then all that counts.
        chunk_seconds: what a chunk shall take in its slot.

    Raises:
        UsageError: `fixed_rows` is less than 1, or `chunk_seconds` no time.
    """

    def __init__(
        self,
        batch_rows: int,
        row_bytes: float | None = None,
        *,
        output_row_bytes: float = 0.0,
        batch_seconds: float = 0.0,
        store: StoreName = "files",
        first_rows: int = 1,
        fixed_rows: int | None = None,
        chunk_seconds: float = CHUNK_SECONDS,
    ) -> None:
        if fixed_rows is not None and fixed_rows < 1:
            raise UsageError(f"chunk_rows is {fixed_rows}: it must be at least 1")
        if not 0 < chunk_seconds < math.inf:
            raise UsageError(f"chunk_seconds is {chunk_seconds}: it must be more than 0, and not endless")
        self._batch_rows = batch_rows
        self._row_bytes = row_bytes or 0.0
        self._output_row_bytes = output_row_bytes
        self._row_seconds = batch_seconds / batch_rows
        self._rows_travel = store != "slices"
        self._first_rows = max(batch_rows, first_rows)
        self.fixed_rows = fixed_rows
        self._chunk_seconds = chunk_seconds
        # Of the rows of one chunk, and of its outputs; a single row may have more.
        self._max_bytes = MAX_REDIS_CHUNK_BYTES if store == "redis" else MAX_CHUNK_BYTES
        self._answered: deque[tuple[int, float]] = deque(maxlen=REMEMBERED_CHUNKS)
        self._largest = 0

    def sent(self, rows: int, payload_bytes: int) -> None:
        """Learn how large rows are."""
        if rows and payload_bytes:
            self._row_bytes = payload_bytes / rows

    def answered(self, rows: int, seconds: float, output_bytes: int) -> None:
        """Learn how long rows take in one slot, and how large their outputs are."""
        self._answered.append((rows, seconds))
        self._largest = max(self._largest, rows)
        if rows:
            self._output_row_bytes = output_bytes / rows

    def bytes_in_flight(self, rows: int) -> int:
        """What so many rows, and the outputs that will come back, take in the stores."""
        return round(rows * self._bytes_per_row)

    def next_rows(self, rows_left: int | None, slots: int, share_bytes: float = math.inf) -> int:
        """Rows for the next chunk.

        Args:
            rows_left: rows that are not sent; None where nobody knows.
            slots: children that work for the job.
            share_bytes: what a chunk may have in flight.
        """
        if self.fixed_rows is not None:
            return self.fixed_rows
        target_rows = self._target_rows()
        if rows_left is not None:
            share = rows_left / (CHUNKS_LEFT_PER_SLOT * max(1, slots))
            target_rows = min(target_rows, max(share, LEAST_SHARE * self._largest))
        rows = max(1, round(target_rows / self._batch_rows)) * self._batch_rows
        most = self._most_rows(share_bytes)
        if rows > most:
            # Whole batches, unless not even one fits.
            rows = int(most) - (int(most) % self._batch_rows if most > self._batch_rows else 0)
        return max(1, rows)

    def _target_rows(self) -> float:
        if self._answered:
            rows, seconds = map(sum, zip(*self._answered, strict=True))
            target_rows = rows * self._chunk_seconds / max(seconds, 1e-6)
            return target_rows if self._row_seconds else min(target_rows, GROWTH * self._largest)
        return self._chunk_seconds / self._row_seconds if self._row_seconds else self._first_rows

    def _most_rows(self, share_bytes: float) -> float:
        largest = max(self._row_bytes, self._output_row_bytes)
        most = SLACK * self._max_bytes / largest if largest else math.inf
        per_row = self._bytes_per_row
        return min(most, SLACK * share_bytes / per_row if per_row else math.inf)

    @property
    def _bytes_per_row(self) -> float:
        """In the stores: of a row and of its outputs."""
        return (self._row_bytes if self._rows_travel else 0.0) + self._output_row_bytes
