"""The workers of a job: which slots can run it, whose chunks went with one that is gone, and how long there are none.

record expired      nobody knows which chunks it had taken: those of its queues are stranded
record withdrawn    the worker ended, and handed back what it had: stranded are those of queues that nobody serves
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from producer.scheduling import model_pinning
from producer.scheduling.preparing_workers import Awaited
from tasks.protocol.messages import ModelRef
from tasks.protocol.preparing import Preparing
from tasks.protocol.records import SlotRecord
from worker_config.retry_policy import LIVENESS_LOOK_SECONDS

logger: logging.Logger = logging.getLogger(__name__)


class WorkerLiveness:
    """The slots of one job, as Redis tells of them; looked at once a second. Times are of the monotonic clock.

    Args:
        slots: that can run the job, as far as is known.
        workers: others that may have chunks of it.
        timeout_seconds: how long the job waits for a worker that holds its models.

    Attributes:
        slots: that can run the job now.
        has_lost: whether a worker has gone; set back by whoever has sent its chunks again.
    """

    slots: list[SlotRecord]
    has_lost: bool

    def __init__(
        self,
        job: str,
        models: Sequence[ModelRef],
        timeout_seconds: float,
        slots: Iterable[SlotRecord] = (),
        workers: Iterable[str] = (),
    ) -> None:
        self.slots = list(slots)
        self.has_lost = False
        self._job, self._models, self._timeout_seconds = job, list(models), timeout_seconds
        self._queues_of: defaultdict[str, set[str]] = defaultdict(set, {name: set() for name in workers})
        self._expires: dict[str, float] = {}
        self._stranded: set[str] = set()
        self._handed_back: set[str] = set()
        self._look_at = self._looked_at = time.monotonic()
        self._absent_seconds = 0.0
        self._awaited = Awaited({model.name: model.digest for model in models}, f"job {job} waits: ")
        self._comes, self._seen = False, ""
        self._know()

    def is_due(self, now: float) -> bool:
        """Whether it is time to look at the workers; from then on it is not."""
        if now < self._look_at:
            return False
        self._look_at = now + LIVENESS_LOOK_SECONDS
        return True

    def look_at_once(self, now: float, *, was_away: bool) -> None:
        """Redis has answered again; where it `was_away`, and not only full, workers have to come back, too."""
        self._look_at = now
        if was_away:
            self._absent_seconds = 0.0

    def update(
        self,
        now: float,
        workers: Mapping[str, list[SlotRecord]],
        seconds_left: Mapping[str, float],
        preparing: Mapping[str, Preparing],
    ) -> None:
        """Take note of the workers that are up; one may have no slot for a while.

        Args:
            now: when they were read.
            seconds_left: after which their records expire, should no sign of life come.
            preparing: those that prepare models.
        """
        self.slots = model_pinning.usable([slot for slots in workers.values() for slot in slots], self._models)
        for worker in self._queues_of.keys() - workers.keys():
            logger.warning("job %s: %s gone", self._job, worker)
            self.has_lost = True
            withdrawn = now < self._expires.get(worker, 0.0) - LIVENESS_LOOK_SECONDS
            (self._handed_back if withdrawn else self._stranded).update(self._queues_of.pop(worker))
        self._comes = not self.slots and self._timeout_seconds > 0 and self._awaited.look(preparing)
        self._seen = self._awaited.seen(preparing)
        self._expires = {worker: now + seconds for worker, seconds in seconds_left.items()}
        self._know()

    def absence(self, now: float, *, needed: bool = True) -> str:
        """What to tell where no worker has held the models for too long; while none is `needed`, no time passes.

        Nor does it while a worker prepares them; nor while Redis does not answer, and nobody looks: workers could not
        tell it that they live.
        """
        since_last = min(now - self._looked_at, 2 * LIVENESS_LOOK_SECONDS)
        self._looked_at = now
        self._absent_seconds = 0.0 if self.slots or self._comes or not needed else self._absent_seconds + since_last
        if self._absent_seconds <= self._timeout_seconds:
            return ""
        models = ", ".join(map(str, self._models))
        return f"no worker has held {models} for {self._timeout_seconds:.0f} seconds{self._seen}"

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
