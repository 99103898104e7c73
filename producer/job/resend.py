"""Chunks that are sent once more: whose worker is gone, whose answer is overdue, or that Redis may have lost.

open chunks --stranded, late, again--> outbox, at the head of a queue --> counted in the ledger
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from producer.job.broker_channel import BrokerChannel
from producer.job.dispatcher import Dispatcher
from producer.records.ledger import Ledger
from producer.scheduling.stragglers import Stragglers
from producer.scheduling.worker_liveness import WorkerLiveness
from tasks.protocol.records import SlotRecord
from worker_config.errors import CeleriacError
from worker_config.retry_policy import STRAGGLER_LOOK_SECONDS


class Resend:
    """What a job sends again.

    Args:
        unreadable: called with a chunk whose rows cannot be read once more, and why.
    """

    def __init__(
        self,
        channel: BrokerChannel,
        dispatcher: Dispatcher,
        liveness: WorkerLiveness,
        lateness: Stragglers,
        ledger: Ledger,
        unreadable: Callable[[int, CeleriacError], None],
    ) -> None:
        self._channel, self._dispatcher, self._liveness, self._stragglers, self._ledger = (
            channel,
            dispatcher,
            liveness,
            lateness,
            ledger,
        )
        self._unreadable = unreadable
        self._looked_for_late = time.monotonic()

    def stranded(self, now: float, slots: Sequence[SlotRecord]) -> None:
        """Send what waits in queues of workers that are gone."""
        stranded = self._liveness.pop_stranded()
        chunks = [i for i, one in self._dispatcher.open.items() if one.queue in stranded and one.times_sent == 1]
        served = {slot.queue for slot in slots} if self._stragglers.knows else set()
        # A worker that was asked to end has handed them back: others have them soon.
        self._stragglers.perhaps_lost([i for i in chunks if self._dispatcher.open[i].queue in served], now, len(slots))
        self.again([i for i in chunks if self._dispatcher.open[i].queue not in served])

    def late(self, slots: Sequence[SlotRecord]) -> None:
        """Send what is overdue, if anybody is there to run it."""
        now, opened = time.monotonic(), self._dispatcher.open
        if now - self._looked_for_late < STRAGGLER_LOOK_SECONDS or not slots:
            return
        self._looked_for_late = now
        if opened and not self._channel.queued({one.queue for one in opened.values()}):
            self._stragglers.all_running(opened, now)
        self.again(self._stragglers.overdue(opened, now), late=True)

    def again(self, indexes: Sequence[int], *, with_rows: bool = False, late: bool = False) -> None:
        """Send these chunks, as far as they are open; with their rows where Redis may have lost them."""
        indexes = [index for index in indexes if index in self._dispatcher.open]
        for index in indexes:
            self._stragglers.sent_again(index, time.monotonic())
        unreadable = self._dispatcher.send_again(indexes, with_rows=with_rows, late=late) if indexes else []
        self._ledger.chunks_sent_again = self._dispatcher.chunks_sent_again
        for index, error in unreadable:
            self._unreadable(index, error)
