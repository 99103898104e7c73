"""Chunks whose outputs found no room on a worker's disk: sent again, one after the other, until there is some.

chunk that came back --hold--> one of them is tried, with pauses that grow --there is room--> all are sent
"""

from __future__ import annotations

import logging
import time

from producer.job.dispatcher import Dispatcher
from producer.scheduling.open_chunk import OpenChunk
from tasks.protocol.messages import FailureRecord
from worker_config.errors import NoSpaceError
from worker_config.retry_policy import LEAST_BACKOFF_SECONDS, REFUSED_WAIT_SECONDS, STORE_BACKOFF_SECONDS

logger = logging.getLogger(__name__)


class SpaceWait:
    """Those of one job; used by its thread alone."""

    def __init__(self, job: str, dispatcher: Dispatcher) -> None:
        self._job, self._dispatcher = job, dispatcher
        self._held: dict[int, OpenChunk] = {}
        self._tried: int | None = None
        self._text = ""
        self._since = self._next_at = 0.0
        self._pause = LEAST_BACKOFF_SECONDS

    def hold(self, chunk: OpenChunk, record: FailureRecord) -> None:
        """A chunk has come back, as this record says."""
        now = time.monotonic()
        if not self._held:
            self._since, self._pause = now, LEAST_BACKOFF_SECONDS
        if record.text != self._text:
            self._text = record.text
            logger.warning("job %s: %s; waiting", self._job, record.text)
        if self._tried in (None, chunk.index):
            self._tried, self._next_at = None, now + self._pause
            self._pause = min(2 * self._pause, STORE_BACKOFF_SECONDS)
        self._held[chunk.index] = chunk

    def has_room(self) -> None:
        """The outputs of a chunk found some: perhaps those of the others do."""
        if self._held:
            held = [chunk for index, chunk in sorted(self._held.items()) if index in self._dispatcher.open]
            self._held.clear()
            self._tried = None
            self._send([chunk for chunk in held if not chunk.copies])
        elif self._text:
            logger.warning("job %s goes on", self._job)
            self._text = ""

    def look(self) -> None:
        """Try one of them, if its time has come.

        Raises:
            NoSpaceError: they have waited for long.
        """
        now = time.monotonic()
        if not self._held or self._tried is not None or now < self._next_at:
            return
        if now - self._since > REFUSED_WAIT_SECONDS:
            raise NoSpaceError(f"{self._text}, for {now - self._since:.0f} s; make room, and continue with --resume")
        self._tried = min(self._held)
        self._send([self._held[self._tried]])

    def _send(self, chunks: list[OpenChunk]) -> None:
        """Rows that workers read themselves are still there."""
        for chunk in chunks:
            self._dispatcher.resend([chunk], with_rows=not self._dispatcher.reads_in_place(chunk))
