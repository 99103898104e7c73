"""Chunks that are sent once more: whose worker is gone, whose answer is overdue, or that Redis may have lost.

open chunks --stranded, late, lost--> dispatcher, at the head of a queue
"""

from __future__ import annotations

import time

from producer.job.broker_channel import BrokerChannel
from producer.job.dispatcher import Dispatcher
from producer.scheduling.stragglers import Stragglers
from producer.scheduling.worker_liveness import WorkerLiveness
from worker_config.retry_policy import STRAGGLER_LOOK_SECONDS


class Resender:
    """Which of a job's open chunks are sent again."""

    def __init__(
        self, channel: BrokerChannel, dispatcher: Dispatcher, liveness: WorkerLiveness, stragglers: Stragglers
    ) -> None:
        self._channel, self._dispatcher = channel, dispatcher
        self._liveness, self._stragglers = liveness, stragglers
        self._looked_for_late = time.monotonic()

    def stranded(self, now: float) -> None:
        """Send what waits in queues of workers that are gone."""
        slots, queues = self._liveness.slots, self._liveness.pop_stranded()
        chunks = [one for one in self._dispatcher.open.values() if one.queue in queues and one.times_sent == 1]
        served = {slot.queue for slot in slots} if self._stragglers.knows else set()
        # A worker that was asked to end has handed them back: others have them soon.
        self._stragglers.perhaps_lost([one for one in chunks if one.queue in served], now, len(slots))
        self._dispatcher.resend([one for one in chunks if one.queue not in served])

    def late(self) -> None:
        """Send what is overdue, if anybody is there to run it."""
        now, chunks = time.monotonic(), self._dispatcher.open.values()
        if now - self._looked_for_late < STRAGGLER_LOOK_SECONDS or not self._liveness.slots:
            return
        self._looked_for_late = now
        if chunks and not self._channel.queued({one.queue for one in chunks}):
            for one in chunks:  # none waits in a queue: each is with a worker, or lost
                one.begin(now)
        self._dispatcher.resend(self._stragglers.overdue(chunks, now), late=True)

    def lost(self) -> None:
        """Send what Redis may have lost, or never got, if anybody is there to run it."""
        if self._liveness.slots:
            lost = [one for one in self._dispatcher.open.values() if not one.published]
            self._dispatcher.resend(lost, with_rows=True)
