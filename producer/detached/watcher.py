"""Looks after a detached job while somebody waits for it: it owns the truth then, as a producer does.

every second: parts of all shards --> the job's state and counts
              a part that runs --> looked after; an executor that differs on one shard --> told to the others
              a part that is lost, of rows in files --> left there again
              a part of a job that came to nothing --> ended
              the others --> kept alive
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial

from msgspec.structs import replace

from producer.broker import jobs
from producer.broker.job_parts import JobParts
from producer.detached.part_channels import PartChannels
from producer.detached.part_watcher import PartWatcher
from producer.detached.submit import leave_record
from producer.records import job_store
from producer.records.job_store import JobState
from tasks.protocol.plan import Plan
from tasks.protocol.records import JobRecord
from tasks.transport import scripts
from tasks.transport.resend_detached import make_void
from worker_config.errors import CeleriacError
from worker_config.retry_policy import LIVENESS_LOOK_SECONDS

logger: logging.Logger = logging.getLogger(__name__)


class Watcher:
    """One job, watched by one waiting caller; several do not harm each other, as workers drop what is answered.

    Args:
        channels: connections, the caller's to close.
        job_id: the whole id.
        plan: from its record.
        worker_timeout_seconds: how long no worker may hold the models.
        watch: raises when the system has ended.

    Attributes:
        places: the shard of each part, as of the last look.
    """

    def __init__(
        self,
        channels: PartChannels,
        job_id: str,
        plan: Plan,
        worker_timeout_seconds: float,
        watch: Callable[[], None],
    ) -> None:
        self.places: dict[int, int] = {}
        self._channels, self._job_id, self._plan, self._watch = channels, job_id, plan, watch
        self._worker_timeout_seconds = worker_timeout_seconds
        self._watchers: dict[int, PartWatcher] = {}
        self._look_at = 0.0
        self._last: tuple[JobState, JobRecord] | None = None

    def look(self) -> tuple[JobState, JobRecord]:
        """The job's state and record, at most a second old.

        Raises:
            NoWorkerError: on one shard no worker has held the models for long; the job stays.
            UnknownJobError: the job has expired.
            SealError: its record is not sealed as it should be.
            BrokerError: Redis, or one of several, cannot be reached; what others have is looked after all the same.
        """
        now = time.monotonic()
        if self._last is None or now >= self._look_at:
            self._look_at = now + LIVENESS_LOOK_SECONDS
            self._watch()
            parts = jobs.read_parts(self._channels.shards, self._job_id, self._channels.sealer)
            if self._spread(parts):
                parts = jobs.read_parts(self._channels.shards, self._job_id, self._channels.sealer)
            self.places = parts.places
            state, record = self._last = parts.whole()
            if state is JobState.RUNNING:
                waits = self._look_after(parts, now)
                self._last = state, replace(record, waits=waits)
            elif parts.has_ended_badly:
                jobs.end_rest(self._channels.shards, self._job_id)
            ttl_seconds = self._plan.ttl_seconds
            self._channels.shards.each(lambda client: scripts.keep_job(client, self._job_id, ttl_seconds), parts.found)
            if state is JobState.RUNNING and parts.out_of_reach:
                raise parts.out_of_reach[0]
        return self._last

    def look_if_ended(self) -> None:
        """Let the next look be one at Redis, though a second is not over, if the job has ended meanwhile."""
        shards, job_id = self._channels.shards, self._job_id
        states = shards.each(lambda client: job_store.state_of(client, job_id), self.places.values())
        if JobState.RUNNING not in states.values() or {JobState.FAILED, JobState.CANCELLED} & set(states.values()):
            self._look_at = 0.0

    def _look_after(self, parts: JobParts, now: float) -> str:
        """Each part that runs, also where another one makes trouble."""
        waits, wrong = list[str](), list[Exception]()
        for shard, (state, record) in parts.found.items():
            if state is not JobState.RUNNING or record.plan is None:
                continue
            if shard not in self._watchers:
                channel, seconds = self._channels[shard], self._worker_timeout_seconds
                self._watchers[shard] = PartWatcher(channel, record, record.plan, seconds)
            try:
                waits.append(self._watchers[shard].look_after(record, now, is_whole=not parts.missing))
            except CeleriacError as error:
                wrong.append(error)
        if parts.lost and not parts.out_of_reach:
            self._leave_again(parts)
        if wrong:
            raise wrong[0]
        return "; ".join(filter(None, waits))

    def _leave_again(self, parts: JobParts) -> None:
        """Parts that are lost, from the plan alone, unless somebody has; their chunks are sent at the next look."""
        _, known = next(iter(parts.found.values()))
        for part in sorted(parts.lost):
            logger.warning("job %s: %s; it is left there again", self._job_id, parts.whole()[1].missing)
            self._watchers.pop(part, None)
            plan = replace(self._plan, part=part, workers=[])
            record = replace(known, plan=plan, ledger={}, failed_models={}, differed={}, updated_at=time.time())
            leave_record(self._channels, record, plan, only_new=True)

    def _spread(self, parts: JobParts) -> bool:
        """Tell parts that run of executors that have differed on another shard; whether there were any to be told.

        Answers that these have given there are void, too. Those of a part that is done cannot be made again: who reads
        one of them is told so.
        """
        differed = {name: one for _, record in parts.found.values() for name, one in record.differed.items()}
        told = False
        for shard, (state, record) in parts.found.items():
            new = [one for name, one in differed.items() if name not in record.differed]
            if new and state is JobState.RUNNING:
                self._channels.shards.on(shard, partial(make_void, job_id=self._job_id, differed=new))
                told = True
        return told
