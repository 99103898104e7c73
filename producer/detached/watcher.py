"""Looks after a detached job while somebody waits for it: it owns the truth then, as a producer does.

every second: state and counts --> keep the job alive --> are its workers up? --> send again what went with one, or
              what is void since its executor has differed
"""

from __future__ import annotations

import time
from collections.abc import Callable

from msgspec.structs import replace

from producer.broker.broker_channel import BrokerChannel
from producer.detached.submit import send
from producer.records import job_store
from producer.records.job_store import JobState
from producer.records.store_waits import of_job
from producer.scheduling.worker_liveness import WorkerLiveness
from tasks.protocol.plan import Plan
from tasks.protocol.records import JobRecord
from tasks.transport import scripts
from tasks.transport.connection import broker_errors
from tasks.transport.resend_detached import claim_resend, unanswered
from worker_config.errors import NoWorkerError


class Watcher:
    """One job, watched by one waiting caller; several do not harm each other, as workers drop what is answered.

    Args:
        channel: connections, the caller's to close.
        record: the job's, as it was read first.
        plan: from its record.
        worker_timeout_seconds: how long no worker may hold the models.
        watch: raises when the system has ended.
    """

    def __init__(
        self,
        channel: BrokerChannel,
        record: JobRecord,
        plan: Plan,
        worker_timeout_seconds: float,
        watch: Callable[[], None],
    ) -> None:
        self._channel, self._plan, self._watch = channel, plan, watch
        self._liveness = WorkerLiveness(record.id, plan.models, worker_timeout_seconds, workers=plan.workers)
        # Who looks now and then alone, each time as another watcher, must know it too.
        idle_seconds = max(0.0, time.time() - record.updated_at)
        self._answered, self._moved_at = record.ledger["chunks_answered"], time.monotonic() - idle_seconds
        self._last = (JobState.RUNNING, record)

    def look(self) -> tuple[JobState, JobRecord]:
        """The job's state and record, at most a second old.

        Raises:
            NoWorkerError: no worker has held the models for long; the job stays.
            UnknownJobError: the job has expired.
            SealError: its record is not sealed as it should be.
            BrokerError: Redis cannot be reached.
        """
        now, (_, record) = time.monotonic(), self._last
        if self._liveness.is_due(now):
            self._watch()
            with broker_errors(self._channel.url):
                self._last = job_store.read_known(self._channel.client, record.id, self._channel.sealer)
                if self._last[0] is JobState.RUNNING:
                    self._look_after(self._last[1], now)
                scripts.keep_job(self._channel.client, record.id, self._plan.ttl_seconds)
        return self._last

    def look_if_ended(self) -> None:
        """Let the next look be one at Redis, though a second is not over, if the job has ended meanwhile."""
        with broker_errors(self._channel.url):
            if job_store.state_of(self._channel.client, self._last[1].id) is not JobState.RUNNING:
                self._liveness.look_at_once(time.monotonic(), was_away=False)

    def _look_after(self, record: JobRecord, now: float) -> None:
        client, liveness = self._channel.client, self._liveness
        workers, seconds_left, preparing, waits = self._channel.workers()
        liveness.update(now, workers, seconds_left, preparing)
        self._last = JobState.RUNNING, replace(record, waits=of_job(waits, record.id))
        if self._answered != record.ledger["chunks_answered"]:
            self._answered, self._moved_at = record.ledger["chunks_answered"], now
        if absence := liveness.absence(now):
            raise NoWorkerError(
                f"{absence}; job {record.id} stays in the system, with {record.ledger['predicted']} of "
                f"{self._plan.rows} rows predicted: start a worker with `celeriac worker`, then fetch the job"
            )
        if not liveness.slots:
            return
        # Also in case a worker came and went while nobody looked. Those for others alone are sent again to these.
        due = liveness.has_lost or now - self._moved_at > self._channel.settings.chunk_timeout_seconds
        asked = job_store.claim_unsent(client, record.id) or claim_resend(client, record.id)
        if asked or (due and not self._channel.has_queued({one.queue for one in liveness.slots})):
            # What is neither answered nor queued was with a worker that is gone, or is with another: no harm.
            send(self._channel, record.id, self._plan, unanswered(client, record.id, self._plan), liveness.slots)
            liveness.has_lost, self._moved_at = False, now
            self._plan = replace(self._plan, workers=sorted({slot.worker for slot in liveness.slots}))
            job_store.note_sent(client, record, self._plan, self._channel.sealer)
