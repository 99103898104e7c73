"""This module knows the workers of a job: which slots can run it, and whose chunks went with one that is gone."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from producer import placement
from tasks.messages import ModelRef, SlotRecord

logger = logging.getLogger(__name__)


class Crew:
    """The slots of one job, as Redis tells of them.

    Attributes:
        slots: that can run the job now.
    """

    def __init__(self, job: str, models: Sequence[ModelRef], slots: Iterable[SlotRecord]) -> None:
        self.slots = list(slots)
        self._job = job
        self._models = list(models)
        self._queues_of: defaultdict[str, set[str]] = defaultdict(set)
        self._stranded: set[str] = set()
        self._know()

    def update(self, workers: Mapping[str, list[SlotRecord]]) -> None:
        """Take note of the workers that are up; one may have no slot for a while."""
        self.slots = placement.usable([slot for slots in workers.values() for slot in slots], self._models)
        for worker in self._queues_of.keys() - workers.keys():
            logger.warning("job %s: %s gone", self._job, worker)
            self._stranded |= self._queues_of.pop(worker)
        self._know()

    def pop_stranded(self) -> set[str]:
        """Queues of workers that are gone, once there are others: nobody knows which chunks they had taken."""
        if not self.slots:
            return set()
        stranded, self._stranded = self._stranded, set()
        return stranded

    def _know(self) -> None:
        """Remember where these workers take chunks from, for when they are gone."""
        for slot in self.slots:
            self._queues_of[slot.worker].add(slot.queue)
