"""A chunk from its first sending to its answer: the one place for what is known of it meanwhile.

sent --> begun in a slot --> answered, and closed
           |--> returned, overdue, stranded or lost --> sent again
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from tasks.protocol.messages import ChunkMessage, RowsRef


@dataclass(slots=True)
class OpenChunk:
    """A chunk that is not answered, and the queue that it was sent to.

    Attributes:
        payload: its rows; empty where they can be had again.
        bytes_in_flight: of its rows and of the outputs that it will have, as the window counts them.
        first_sent_at: by this process's clock, Unix seconds.
        published_at: when it was last published, or tried to be, by this process's monotonic clock, as all that follow.
        published: whether Redis has its message for sure.
        times_sent: deliveries so far.
        copies: deliveries that may still answer.
        times_returned: deliveries that have come to nothing.
        spent: payloads of earlier deliveries, which a child may still read.
        begun_at: when a child may have begun the first delivery; None while it may wait in a queue.
        overdue_since: the same, of the last delivery: its time limit counts from here.
        lasted_seconds: how long after `begun_at` the last delivery came back without outputs.
    """

    message: ChunkMessage
    queue: str
    payload: bytes = b""
    bytes_in_flight: int = 0
    first_sent_at: float = field(default_factory=time.time)
    published_at: float = 0.0
    published: bool = False
    times_sent: int = 1
    copies: int = 1
    times_returned: int = 0
    spent: list[RowsRef] = field(default_factory=list)
    begun_at: float | None = None
    overdue_since: float | None = None
    lasted_seconds: float = 0.0

    @property
    def index(self) -> int:
        """Its place among the job's chunks."""
        return self.message.index

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return self.message.stop - self.message.start

    @property
    def refs(self) -> list[RowsRef]:
        """All its payloads."""
        return [self.message.ref, *self.spent]

    def begin(self, since: float) -> None:
        """A child may work on it since then, if that was not known before."""
        self.begun_at = since if self.begun_at is None else self.begun_at
        self.overdue_since = since if self.overdue_since is None else self.overdue_since

    def stands_still(self, until: float) -> None:
        """Its slot waits for a store of objects, which another would wait for, too: until then it is not late."""
        self.overdue_since = until if self.overdue_since is None else max(self.overdue_since, until)

    def resend(self, *, late: bool) -> None:
        """One more copy is on its way; if it is not only late, the others are gone."""
        self.times_sent += 1
        self.copies = self.copies + 1 if late else 1

    def take_back(self, now: float) -> bool:
        """A copy has come to nothing: whether it was the last one on its way.

        A row that kills would otherwise have several children at a time, for each of its copies.
        """
        self.lasted_seconds = 0.0 if self.begun_at is None else now - self.begun_at
        self.times_returned += 1
        self.copies -= 1
        return self.copies < 1
