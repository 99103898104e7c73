"""Looks after the part of a detached job that one shard has, and its workers.

its workers up? --> send again what went with one, what was lost on the way to one, or what is void since its executor
has differed
"""

from __future__ import annotations

import time
from collections.abc import Collection

from msgspec.structs import replace

from producer.broker.broker_channel import BrokerChannel
from producer.detached.submit import send
from producer.records import job_store
from producer.records.store_waits import of_job
from producer.scheduling.worker_liveness import WorkerLiveness
from tasks.protocol.plan import Plan
from tasks.protocol.records import JobRecord
from tasks.transport.connection import broker_errors
from tasks.transport.resend_detached import claim_resend, unanswered
from worker_config.broker import redacted
from worker_config.errors import NoWorkerError
from worker_config.retry_policy import HEARTBEAT_SECONDS, LEAST_RESEND_SECONDS, RESEND_BACKOFF

# Within which a worker tells what its children are at, whatever it waits for.
_HELD_SECONDS = 3 * HEARTBEAT_SECONDS


class PartWatcher:
    """One part, which runs.

    Args:
        channel: connections, the caller's to close.
        record: the part's, as it was read first.
        plan: from its record.
        worker_timeout_seconds: how long no worker may hold the models.
    """

    def __init__(self, channel: BrokerChannel, record: JobRecord, plan: Plan, worker_timeout_seconds: float) -> None:
        self._channel, self._plan = channel, plan
        self._liveness = WorkerLiveness(record.id, plan.models, worker_timeout_seconds, workers=plan.workers)
        # Who looks now and then alone, each time as another watcher, must know it too.
        idle_seconds = max(0.0, time.time() - record.updated_at)
        self._answered, self._moved_at = record.ledger["chunks_answered"], time.monotonic() - idle_seconds
        self._look_at, self._copies = self._moved_at + LEAST_RESEND_SECONDS, 0

    def look_after(self, record: JobRecord, now: float, *, is_whole: bool) -> str:
        """Do what is due for the part; what its slots wait for, in words, empty where they do not.

        Args:
            record: the part's, as it is now.
            is_whole: whether all parts of the job were left, so that those may be sent that never were.

        Raises:
            NoWorkerError: no worker of this shard has held the models for long; the job stays.
            BrokerError: Redis cannot be reached.
        """
        workers, seconds_left, preparing, waits = self._channel.workers()
        self._liveness.update(now, workers, seconds_left, preparing)
        if self._answered != record.ledger["chunks_answered"]:
            self._answered, self._moved_at = record.ledger["chunks_answered"], now
            self._look_at, self._copies = now + LEAST_RESEND_SECONDS, 0
        if absence := self._liveness.absence(now):
            where = f" at {redacted(self._channel.url)}" if len(self._plan.parts) > 1 else ""
            raise NoWorkerError(
                f"{absence}{where}; job {record.id} stays in the system, with {record.ledger['predicted']} of "
                f"{self._plan.rows} rows predicted: start a worker with `celeriac worker`, then fetch the job"
            )
        if self._liveness.slots and is_whole:
            with broker_errors(self._channel.url):
                self._send_again(record, now)
        return of_job(waits, record.id)

    def _send_again(self, record: JobRecord, now: float) -> None:
        client, liveness = self._channel.client, self._liveness
        # Also in case a worker came and went while nobody looked. Those for others alone are sent again to these.
        due = liveness.has_lost or now - self._moved_at > self._channel.settings.chunk_timeout_seconds
        queues = {one.queue for one in liveness.slots}
        asked = job_store.claim_unsent(client, record.id) or claim_resend(client, record.id)
        if asked or (due and not self._channel.has_queued(queues)) or self._is_lost(queues, now):
            # What is neither answered nor queued was with a worker that is gone, or is with another: no harm.
            send(self._channel, record.id, self._plan, unanswered(client, record.id, self._plan), liveness.slots)
            liveness.has_lost, self._moved_at, self._look_at = False, now, now + LEAST_RESEND_SECONDS
            self._plan = replace(self._plan, workers=sorted({slot.worker for slot in liveness.slots}))
            job_store.note_sent(client, record, self._plan, self._channel.sealer)

    def _is_lost(self, queues: Collection[str], now: float) -> bool:
        """Whether nothing comes of the part any more, as when a connection ended with a message in it.

        What a worker could not give back, as Redis was away, counts there as held for long: then what children are at
        tells.
        """
        if now < self._look_at:
            return False
        self._look_at = now + LEAST_RESEND_SECONDS
        if self._channel.has_queued(queues):
            return False
        if not self._channel.has_held():
            return True
        if now - self._moved_at < _HELD_SECONDS * RESEND_BACKOFF**self._copies or self._channel.is_run():
            return False
        self._copies += 1
        return True
