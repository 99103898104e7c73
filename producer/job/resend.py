"""Chunks that are sent once more: whose worker is gone, whose answer is overdue, that Redis may have lost, or whose
outputs found no room on a worker's disk.

open chunks --stranded, late, lost--> dispatcher, at the head of a queue
chunks whose slots wait for a store of objects --> are not late; whoever waits for the job is told
chunk without room --hold--> one of them is tried, with pauses that grow --there is room--> all are sent
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from producer.job.dispatcher import Dispatcher
from producer.job.job_context import JobContext
from producer.records.store_waits import StoreWait, WaitLine, occupied_slots, of_job
from producer.scheduling.open_chunk import OpenChunk
from producer.scheduling.stragglers import Stragglers
from producer.scheduling.worker_liveness import WorkerLiveness
from tasks.protocol.messages import FailureRecord
from worker_config.errors import NoSpaceError
from worker_config.retry_policy import (
    LEAST_BACKOFF_SECONDS,
    LIVENESS_LOOK_SECONDS,
    REFUSED_WAIT_SECONDS,
    STORE_BACKOFF_SECONDS,
    STRAGGLER_LOOK_SECONDS,
)

logger: logging.Logger = logging.getLogger(__name__)


class Resender:
    """Which of a job's open chunks are sent again.

    Attributes:
        liveness: of the workers that can run the job.
    """

    liveness: WorkerLiveness

    def __init__(self, context: JobContext, dispatcher: Dispatcher) -> None:
        spec = context.spec
        self.liveness = WorkerLiveness(context.id, spec.models, context.worker_timeout_seconds, spec.slots)
        self._context, self._wait_line = context, WaitLine()
        self._channel, self._dispatcher = context.channel, dispatcher
        self._stragglers = Stragglers()
        self._looked_for_late = time.monotonic()
        self._all_wait = False

    def answered(self, chunk: OpenChunk, seconds: float) -> None:
        """Learn from a chunk that took so long in its slot."""
        self._stragglers.answered(chunk, seconds, time.monotonic(), self._dispatcher.waiting[chunk.queue])

    def look(self, now: float) -> None:
        """See which workers are up, and send what waits in queues of those that are gone, and what Redis has lost."""
        workers, seconds_left, preparing, waits = self._channel.workers()
        self.liveness.update(now, workers, seconds_left, preparing)
        self._have_patience(waits, now)
        slots, queues = self.liveness.slots, self.liveness.pop_stranded()
        self._dispatcher.use(slots)
        chunks = [one for one in self._dispatcher.open.values() if one.queue in queues and one.times_sent == 1]
        served = {slot.queue for slot in slots} if self._stragglers.knows else set()
        # A worker that was asked to end has handed them back: others have them soon.
        self._stragglers.perhaps_lost([one for one in chunks if one.queue in served], now, len(slots))
        self._dispatcher.resend([one for one in chunks if one.queue not in served])
        if slots:
            lost = [one for one in self._dispatcher.open.values() if not one.published]
            self._dispatcher.resend(lost, with_rows=True)

    def _have_patience(self, waits: Sequence[StoreWait], now: float) -> None:
        """With chunks that wait for a store; where all slots do, none is free for a copy of any."""
        slots = {(slot.worker, slot.slot) for slot in self.liveness.slots}
        copies = {index: chunk.copies for index, chunk in self._dispatcher.open.items()}
        self._all_wait = bool(slots) and occupied_slots(waits, self._context.id, copies, slots) >= len(slots)
        own = {one.index for one in waits if one.job == self._context.id}
        for index, chunk in self._dispatcher.open.items():
            if index in own or (self._all_wait and chunk.overdue_since is not None):
                chunk.stands_still(now + LIVENESS_LOOK_SECONDS)
        self._context.waits = of_job(waits, self._context.id)
        if text := self._wait_line.look(self._context.waits, now):
            logger.warning("job %s %s", self._context.id, text)

    def late(self) -> None:
        """Send what is overdue, if anybody is there to run it."""
        now, chunks = time.monotonic(), self._dispatcher.open.values()
        if now - self._looked_for_late < STRAGGLER_LOOK_SECONDS or not self.liveness.slots:
            return
        self._looked_for_late = now
        if chunks:
            waiting = self._channel.queued({one.queue for one in chunks})
            self._dispatcher.window.waiting(waiting)
            for one in () if waiting else chunks:  # none waits in a queue: each is with a worker, or lost
                one.begin(now)
        if not self._all_wait:
            self._dispatcher.resend(self._stragglers.overdue(chunks, now), late=True)


class SpaceWait:
    """Chunks of one job whose outputs found no room, until there is some; used by the job's thread alone."""

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
