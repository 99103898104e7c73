"""The workers of a job: which slots can run it, and whose chunks went with one that is gone.

record expired      nobody knows which chunks it had taken: those of its queues are stranded
record withdrawn    the worker ended, and handed back what it had: stranded are those of queues that nobody serves
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from producer.scheduling import model_pinning
from tasks.protocol.messages import ModelRef
from tasks.protocol.records import SlotRecord
from worker_config.retry_policy import LIVENESS_LOOK_SECONDS

logger = logging.getLogger(__name__)


class WorkerLiveness:
    """The slots of one job, as Redis tells of them.

    Attributes:
        slots: that can run the job now.
    """

    def __init__(self, job: str, models: Sequence[ModelRef], slots: Iterable[SlotRecord]) -> None:
        self.slots = list(slots)
        self._job = job
        self._models = list(models)
        self._queues_of: defaultdict[str, set[str]] = defaultdict(set)
        self._expires: dict[str, float] = {}
        self._stranded: set[str] = set()
        self._handed_back: set[str] = set()
        self._know()

    def update(self, workers: Mapping[str, list[SlotRecord]], seconds_left: Mapping[str, float], now: float) -> None:
        """Take note of the workers that are up; one may have no slot for a while.

        Args:
            seconds_left: after which their records expire, should no sign of life come.
            now: of a monotonic clock.
        """
        self.slots = model_pinning.usable([slot for slots in workers.values() for slot in slots], self._models)
        for worker in self._queues_of.keys() - workers.keys():
            logger.warning("job %s: %s gone", self._job, worker)
            withdrawn = now < self._expires.get(worker, 0.0) - LIVENESS_LOOK_SECONDS
            (self._handed_back if withdrawn else self._stranded).update(self._queues_of.pop(worker))
        self._expires = {worker: now + seconds for worker, seconds in seconds_left.items()}
        self._know()

    def pop_stranded(self) -> set[str]:
        """Queues whose chunks should be sent again, once there are workers."""
        if not self.slots:
            return set()
        stranded = self._stranded | (self._handed_back - {slot.queue for slot in self.slots})
        self._stranded, self._handed_back = set(), set()
        return stranded

    def _know(self) -> None:
        """Remember where these workers take chunks from, for when they are gone."""
        for slot in self.slots:
            self._queues_of[slot.worker].add(slot.queue)
