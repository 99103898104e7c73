"""This module finds chunks whose answer is overdue: lost with a worker or with Redis, or far slower than the others.

    answers: how long chunks take, which were begun before which --> since when a chunk must be with a child --> overdue

Workers take chunks in the order in which they were sent. When one that was sent later has been answered, the earlier
ones are with a child, or lost. All limits follow the times that chunks took; the second copy of a chunk that is only
slow does no harm, and the first answer counts. A third one waits for seconds at least, since rows that kill cost a
child for each. One that came back, since its child died, has the time that this took, twice.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Protocol

from worker_config.retry_policy import (
    LEAST_RESEND_SECONDS,
    RESEND_BACKOFF,
    STRAGGLER_SLACK_SECONDS,
    STRAGGLER_UNKNOWN_SECONDS,
)

# Of the chunks answered last.
RECENT = 64
LEAST_KNOWN = 3


class Sent(Protocol):
    """What is known of an open chunk."""

    queue: str
    times_sent: int
    came_back: int

    @property
    def rows(self) -> int:
        """How many it has."""


class Stragglers:
    """The chunks of one job that are on their way; times are of one monotonic clock, in seconds."""

    def __init__(self) -> None:
        self._took: deque[float] = deque(maxlen=RECENT)
        self._rows: deque[int] = deque(maxlen=RECENT)
        self._with_child: dict[int, float] = {}
        # Since when a child may have had the first copy; how long after that the last one came back.
        self._begun: dict[int, float] = {}
        self._lasted: dict[int, float] = {}

    def answered(self, index: int, one: Sent, seconds: float, now: float, opened: Mapping[int, Sent]) -> None:
        """An answer came now, to a chunk that took so long; `opened` are the others, in the order of their index."""
        self._took.append(seconds)
        self._rows.append(one.rows)
        self._with_child.pop(index, None)
        for other, sent in opened.items():
            if other >= index:
                break
            if sent.queue == one.queue:
                self._begins(other, now - seconds)

    def came_back(self, index: int, now: float) -> None:
        """A copy of a chunk has come to nothing now: so long may the next one take, too."""
        self._lasted[index] = now - self._begun.get(index, now)

    def sent_again(self, index: int, now: float) -> None:
        """Its time begins anew."""
        self._with_child[index] = now

    def all_running(self, opened: Mapping[int, Sent], now: float) -> None:
        """No chunk waits in a queue: each is with a worker, or lost."""
        for index in opened:
            self._begins(index, now)

    def overdue(self, opened: Mapping[int, Sent], now: float) -> list[int]:
        """The chunks to send again."""
        for times in (self._with_child, self._begun, self._lasted):
            for closed in times.keys() - opened.keys():
                del times[closed]
        limits = {rows: self.limit_seconds(rows) for rows in {opened[index].rows for index in self._with_child}}

        def patience(index: int) -> float:
            one = opened[index]
            seconds = limits[one.rows] * RESEND_BACKOFF ** _unheard_of(one)
            if one.times_sent == 1:
                return seconds
            return max(seconds, LEAST_RESEND_SECONDS, 2 * self._lasted.get(index, 0.0))

        return [index for index, since in self._with_child.items() if now - since > patience(index)]

    def perhaps_lost(self, indexes: Sequence[int], now: float, slots: int) -> None:
        """A worker is gone that may have had these: they are late if they are not answered when their turn is over."""
        turn = len(indexes) / max(1, slots) * statistics.median(self._took or [0.0])
        for index in indexes:
            self._with_child.setdefault(index, now + turn)

    @property
    def knows(self) -> bool:
        """Whether enough is known of how long chunks take."""
        return len(self._took) >= LEAST_KNOWN

    def limit_seconds(self, rows: int) -> float:
        """How long after its neighbours a chunk is late: one may wait in its worker for the one before it.

        Chunks grow while their size is being learnt: one that is larger than most has so much longer.
        """
        if not self.knows:
            return STRAGGLER_UNKNOWN_SECONDS
        took = sorted(self._took)
        share = max(1.0, rows / max(1.0, statistics.median(self._rows)))
        return share * (statistics.median(took) + 1.2 * took[int(0.9 * (len(took) - 1))]) + STRAGGLER_SLACK_SECONDS

    def _begins(self, index: int, since: float) -> None:
        self._with_child.setdefault(index, since)
        self._begun.setdefault(index, since)


def _unheard_of(sent: Sent) -> int:
    """Copies before the last one of which nobody has said what became of them."""
    return max(0, sent.times_sent - sent.came_back - 1)
