"""Looks after a detached job while somebody waits for it: it owns the truth then, as a producer does.

every second: state and counts --> keep the job alive --> are its workers up? --> send again what went with one, or
              what is void since its executor has differed
"""

from __future__ import annotations

import time
from collections.abc import Callable

from producer.detached.submit import send
from producer.job.broker_channel import BrokerChannel
from producer.records import job_store
from producer.records.job_store import JobState
from producer.scheduling import model_pinning
from tasks.protocol import keys
from tasks.protocol.records import JobRecord, Plan, SlotRecord
from tasks.transport import scripts
from tasks.transport.connection import broker_errors
from tasks.transport.resend_detached import claim_resend, unanswered
from worker_config.errors import NoWorkerError
from worker_config.retry_policy import LIVENESS_LOOK_SECONDS


class Watcher:
    """One job, watched by one waiting caller; several do not harm each other, as workers drop what is answered.

    Args:
        channel: connections, the caller's to close.
        record: the job's, as it was read first.
        plan: from its record.
        worker_timeout_seconds: how long no worker may hold the models.
        chunk_timeout_seconds: the longest that workers let a chunk run.
        watch: raises when the system has ended.

    Attributes:
        slots: those that can run the job, at the last look.
    """

    def __init__(
        self,
        channel: BrokerChannel,
        record: JobRecord,
        plan: Plan,
        *,
        worker_timeout_seconds: float,
        chunk_timeout_seconds: float,
        watch: Callable[[], None],
    ) -> None:
        self.slots: list[SlotRecord] = []
        self._channel = channel
        self._id = record.id
        self._plan = plan
        self._worker_timeout_seconds = worker_timeout_seconds
        self._chunk_timeout_seconds = chunk_timeout_seconds
        self._watch = watch
        self._workers = set(plan.workers)
        self._gone: set[str] = set()
        self._answered = -1
        self._moved_at = self._worker_at = time.monotonic()
        self._looked_at = -LIVENESS_LOOK_SECONDS
        self._last = (JobState.RUNNING, record)

    def look(self) -> tuple[JobState, JobRecord]:
        """The job's state and record, at most a second old.

        Raises:
            NoWorkerError: no worker has held the models for long; the job stays.
            UnknownJobError: the job has expired.
            BrokerError: Redis cannot be reached.
        """
        now = time.monotonic()
        if now - self._looked_at >= LIVENESS_LOOK_SECONDS:
            self._looked_at = now
            self._watch()
            with broker_errors(self._channel.url):
                self._last = job_store.read_known(self._channel.client, self._id)
                if self._last[0] is JobState.RUNNING:
                    self._look_after(self._last[1], now)
                scripts.keep_job(self._channel.client, self._id, self._plan.ttl_seconds)
        return self._last

    def _look_after(self, record: JobRecord, now: float) -> None:
        workers = self._channel.workers()
        self.slots = model_pinning.usable([slot for slots in workers.values() for slot in slots], self._plan.models)
        self._gone |= self._workers - workers.keys()
        self._workers = (self._workers & workers.keys()) | {slot.worker for slot in self.slots}
        if self._answered != record.ledger["chunks_answered"]:
            self._answered, self._moved_at = record.ledger["chunks_answered"], now
        if self.slots:
            self._worker_at = now
            # Also in case a worker came and went while nobody looked.
            still = now - self._moved_at > self._chunk_timeout_seconds
            if claim_resend(self._channel.client, self._id) or ((self._gone or still) and not self._queued()):
                self._send_again()
                self._gone, self._moved_at = set(), now
        elif now - self._worker_at > self._worker_timeout_seconds:
            names = ", ".join(map(str, self._plan.models))
            raise NoWorkerError(
                f"no worker has held {names} for {self._worker_timeout_seconds:.0f} seconds; job {self._id} stays in "
                f"the system, with {record.ledger['predicted']} of {self._plan.rows} rows predicted: start a worker "
                "with `celeriac worker`, then fetch the job"
            )

    def _queued(self) -> int:
        """Messages that wait for the workers that are up; those for others alone are sent again to these."""
        lists = [keys.queue(name) for name in {slot.queue for slot in self.slots}]
        return sum(self._channel.client.llen(name) for name in lists)

    def _send_again(self) -> None:
        """What is neither answered nor queued was with a worker that is gone, or is with another, which is harmless."""
        indexes = unanswered(self._channel.client, self._id, self._plan)
        send(self._channel, self._id, self._plan, indexes, self.slots)
