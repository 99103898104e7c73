"""Chunks whose answer is overdue: lost with a worker or with Redis, or far slower than the others.

    answers: how long chunks take, which were begun before which --> since when a chunk must be with a child --> overdue

Workers take chunks in the order in which they were sent. When one that was sent later has been answered, the earlier
ones are with a child, or lost. All limits follow the times that chunks took; the second copy of a chunk that is only
slow does no harm, and the first answer counts. A third one waits for seconds at least, since rows that kill cost a
child for each. One that came back, since its child died, has the time that this took, twice.
"""

from __future__ import annotations

import statistics
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from functools import cache

from producer.scheduling.open_chunk import OpenChunk
from worker_config.retry_policy import (
    LEAST_RESEND_SECONDS,
    RESEND_BACKOFF,
    STRAGGLER_SLACK_SECONDS,
    STRAGGLER_UNKNOWN_SECONDS,
)

# Of the chunks answered last.
RECENT = 64
LEAST_KNOWN = 3


class Stragglers:
    """How long the chunks of one job take, and which of the open ones are late; times are monotonic, in seconds."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=RECENT)
        self._rows: deque[int] = deque(maxlen=RECENT)

    def answered(self, chunk: OpenChunk, seconds: float, now: float, waiting: OrderedDict[int, OpenChunk]) -> None:
        """An answer came now, to a chunk that took so long; `waiting`, in its queue, are fewer then."""
        self._seconds.append(seconds)
        self._rows.append(chunk.rows)
        while waiting and next(iter(waiting)) < chunk.index:
            waiting.popitem(last=False)[1].begin(now - seconds)

    def overdue(self, chunks: Iterable[OpenChunk], now: float) -> list[OpenChunk]:
        """Those of the open chunks that should be sent again."""
        limit_seconds = cache(self.limit_seconds)

        def patience(chunk: OpenChunk) -> float:
            # Copies before the last one of which nobody has said what became of them.
            silent = max(0, chunk.times_sent - chunk.times_returned - 1)
            seconds = limit_seconds(chunk.rows) * RESEND_BACKOFF**silent
            return seconds if chunk.times_sent == 1 else max(seconds, LEAST_RESEND_SECONDS, 2 * chunk.lasted_seconds)

        return [one for one in chunks if one.overdue_since is not None and now - one.overdue_since > patience(one)]

    def perhaps_lost(self, chunks: Sequence[OpenChunk], now: float, slots: int) -> None:
        """A worker is gone that may have had these: they are late if they are not answered when their turn is over."""
        turn = len(chunks) / max(1, slots) * statistics.median(self._seconds or [0.0])
        for chunk in chunks:
            chunk.overdue_since = now + turn if chunk.overdue_since is None else chunk.overdue_since

    @property
    def knows(self) -> bool:
        """Whether enough is known of how long chunks take."""
        return len(self._seconds) >= LEAST_KNOWN

    def limit_seconds(self, rows: int) -> float:
        """How long after its neighbours a chunk is late: one may wait in its worker for the one before it.

        Chunks grow while their size is being learnt: one that is larger than most has so much longer.
        """
        if not self.knows:
            return STRAGGLER_UNKNOWN_SECONDS
        seconds = sorted(self._seconds)
        share = max(1.0, rows / max(1.0, statistics.median(self._rows)))
        return (
            share * (statistics.median(seconds) + 1.2 * seconds[int(0.9 * (len(seconds) - 1))])
            + STRAGGLER_SLACK_SECONDS
        )
