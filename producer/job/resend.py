"""Chunks that are sent once more: whose worker is gone, whose answer is overdue, or that Redis may have lost.

open chunks --stranded, late, lost--> dispatcher, at the head of a queue
"""

from __future__ import annotations

import time

from producer.job.dispatcher import Dispatcher
from producer.job.job_context import JobContext
from producer.scheduling.open_chunk import OpenChunk
from producer.scheduling.stragglers import Stragglers
from producer.scheduling.worker_liveness import WorkerLiveness
from worker_config.retry_policy import STRAGGLER_LOOK_SECONDS


class Resender:
    """Which of a job's open chunks are sent again.

    Attributes:
        liveness: of the workers that can run the job.
    """

    liveness: WorkerLiveness

    def __init__(self, context: JobContext, dispatcher: Dispatcher) -> None:
        spec = context.spec
        self.liveness = WorkerLiveness(context.id, spec.models, context.worker_timeout_seconds, spec.slots)
        self._channel, self._dispatcher = context.channel, dispatcher
        self._stragglers = Stragglers()
        self._looked_for_late = time.monotonic()

    def answered(self, chunk: OpenChunk, seconds: float) -> None:
        """Learn from a chunk that took so long in its slot."""
        self._stragglers.answered(chunk, seconds, time.monotonic(), self._dispatcher.open.values())

    def look(self, now: float) -> None:
        """See which workers are up, and send what waits in queues of those that are gone, and what Redis has lost."""
        self.liveness.update(now, *self._channel.workers())
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
        self._dispatcher.resend(self._stragglers.overdue(chunks, now), late=True)
