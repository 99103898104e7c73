"""A detached job as whoever asks for it sees it: progress, parts in order, the result, cancel.

    answers by chunk, in Redis --read a few at a time, never taken away--> parts in order

What is handed out is judged by what is sealed: the record with its plan, and an answer for each of its chunks. Counts
and the state may end the reading, and never make it shorter.

Where an executor is found to differ while they are read, those read before may be void: they are read anew, or, where
the caller has them, `parts` ends.

A model that failed alone is left out of what is read, from the part on at which that is known.
So it can be asked again, by several, until the job expires.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import AbstractContextManager, closing, suppress
from dataclasses import replace

import msgspec

from producer.broker import jobs
from producer.broker.shard_clients import ShardClients, open_shards
from producer.detached.left_output import discard_left
from producer.detached.part_channels import PartChannels
from producer.detached.ready_answers import read_ready
from producer.detached.watcher import Watcher
from producer.detached.workers_now import WorkersNow, find_workers
from producer.job.job_handle import JobHandle
from producer.records.job_store import JobState
from producer.records.store_waits import of_job, waits_in
from producer.rows.assemble import ResultArrays
from producer.rows.part import OutputTree, Part
from producer.rows.read_answer import part_of, read_outputs, stored_of, stored_part
from producer.scheduling import model_pinning
from tasks.protocol.messages import Answer, ChunkMessage, Differed, FailureRecord, InlineRef, Outputs, unpack
from tasks.protocol.plan import LeftOutput, Plan
from tasks.protocol.records import JobRecord
from tasks.protocol.seal import Sealer, answer_context, outputs_context
from tasks.transport.resend_detached import message
from worker_config.errors import (
    ExecutorDifferedError,
    JobCancelledError,
    MessageError,
    RowsFailedError,
    SealError,
    UnknownJobError,
    UsageError,
)
from worker_config.settings import Settings

# How long to wait before the next look for an answer; longer each time that none came.
LEAST_PAUSE_SECONDS = 0.02
LONGEST_PAUSE_SECONDS = 0.5
# Of a thread that waits for somebody who may leave.
_AWAIT_SECONDS = 1.0


class DetachedJob(JobHandle):
    """A job that was left in Redis; made by `Client.attach`."""

    def __init__(
        self, settings: Settings, job_id: str, worker_timeout_seconds: float, watch: Callable[[], None]
    ) -> None:
        # Nothing of a detached job is in the spool folder.
        self._settings = replace(settings, spool=None)
        self._worker_timeout_seconds = worker_timeout_seconds
        self._watch = watch
        self._sealer = Sealer(settings.signing_key)
        with self._shards() as shards:
            _, record = jobs.read(shards, job_id, self._sealer)
        if record.plan is None:
            raise UsageError(
                f"job {record.id} was not detached: its producer, {record.producer}, writes the output itself; "
                f"`celeriac watch {record.id}` shows how far it is"
            )
        self.id: str = record.id
        self._plan: Plan = record.plan
        self._failed = dict(record.failed_models)
        self._differed: dict[str, Differed] = {}  # as answers tell it

    @property
    def record(self) -> JobRecord:
        """All that Redis knows of the job."""
        return self._read()[1]

    @property
    def failed_models(self) -> dict[str, FailureRecord]:
        """Models that failed alone, while others went on, as far as that is known, each with a record of rows."""
        self._failed |= {name: at for name, at in self.record.failed_models.items() if name not in self._failed}
        return dict(self._failed)

    @property
    def expires_at(self) -> float:
        """When Redis forgets the job, in Unix seconds, if nothing happens to it until then."""
        with self._shards() as shards:
            return jobs.expires_at(shards, jobs.read_parts(shards, self.id, self._sealer))

    @property
    def output_name(self) -> str:
        """What the model calls its single output; empty where there are several, or it has no name."""
        return self._plan.output_name

    @property
    def output(self) -> LeftOutput | None:
        """The folder of files that its workers write, and that `celeriac fetch` completes; None of all other jobs."""
        return self._plan.output

    @property
    def rows_out(self) -> int:
        """Rows of all parts together."""
        return self._plan.rows

    def parts(self) -> Generator[Part, None, None]:
        """The predictions chunk by chunk, in the data set's order, as they come; each call begins anew.

        Where workers write the outputs, each part has the file of its own in `stored`, and no outputs.

        Of several models, a part has the outputs of those that are not known to have failed when it is read, and never
        of one that an earlier part lacked; `failed_models` names the others.

        Raises:
            RowsFailedError: rows have no prediction, so the job has none.
            ExecutorDifferedError: parts that were read are not the model's own outputs; begin anew.
            JobCancelledError: the job was cancelled.
            UnknownJobError: the job has expired.
            SealError, MessageError: its record or an answer is damaged, or not signed as it should be.
            NoWorkerError: no worker has held the models for long; the job stays in the system.
            BrokerError: Redis cannot be reached.
        """
        with self._channels() as channels:
            watcher = self._watcher(channels)
            index, pause, by_executor = 0, LEAST_PAUSE_SECONDS, set[str]()
            void = watcher.look()[1].void
            while index < self._plan.chunks:
                state, record = watcher.look()
                self._check_usable(state, record)
                if record.void != void:
                    void = self._begin_again(record, index)
                # What these executors answered was gone before the answers are read.
                differed = record.differed | self._differed
                answers = read_ready(channels.shards, self.id, self._plan, watcher.places, index)
                if not answers and state is JobState.DONE:
                    raise UnknownJobError(
                        f"job {self.id} is done, but Redis has dropped its outputs; set its maxmemory-policy to "
                        "noeviction and submit the job again"
                    )
                for data in answers:
                    answer = self._answer(index, data)
                    self._check_own(answer, differed, by_executor)
                    yield self._part(answer, record.failed_models)
                    index, pause = index + 1, LEAST_PAUSE_SECONDS
                if not answers:
                    time.sleep(pause)
                    pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            # All answers were there at once only if none has become void since the first was read.
            record = self.record
            if record.void != void:
                self._begin_again(record, index)

    def result(self) -> OutputTree:
        """All predictions: an array of shape (rows, ...); a dict of arrays for several outputs or models.

        Of several models, those that went through for all rows, by name also where only one is left.

        Raises:
            RowsFailedError, JobCancelledError, UnknownJobError, NoWorkerError, BrokerError: as `parts`.
            UsageError: workers write its outputs to files.
        """
        if self.output:
            raise UsageError(
                f"job {self.id} writes its outputs to {self.output.path}/: `celeriac fetch {self.id}` puts the "
                "files in place"
            )
        while True:
            gathered = ResultArrays(self._plan.rows, without=self._failed)
            with suppress(ExecutorDifferedError), closing(self.parts()) as parts:
                for part in parts:
                    gathered.add(part)
                return gathered.result()

    def failures(self) -> list[FailureRecord]:
        """Rows that have no prediction, and why: also those that ended the job, and one record of each failed model."""
        with self._shards() as shards:
            return jobs.read_failures(shards, jobs.read_parts(shards, self.id, self._sealer), self._sealer)

    def cancel(self) -> None:
        """End the job, running or done; its rows and outputs are gone at once, and parts that workers have written.

        Raises:
            UnknownJobError: the job has expired.
            BrokerError: Redis, or one of several, cannot be reached; what the others have is gone.
        """
        with self._shards() as shards:
            jobs.cancel(shards, self.id)
        discard_left(self._plan)
        jobs.check_reached(shards, f"job {self.id} is cancelled")

    def wait(
        self, timeout_seconds: float | None = None, *, each: Callable[[JobState, JobRecord], None] | None = None
    ) -> bool:
        """Wait until the job has ended, however; False when the time was up.

        Args:
            timeout_seconds: how long; for ever if left out. A Redis that does not answer is waited for a minute all the
                same, one of several for some seconds.
            each: called with state and record whenever they were looked at.

        Raises:
            UnknownJobError, NoWorkerError, BrokerError: as `parts`.
        """
        began = time.monotonic()
        with self._channels() as channels:
            watcher, pause = self._watcher(channels), LEAST_PAUSE_SECONDS
            while True:
                state, record = watcher.look()
                if each:
                    each(state, record)
                if state is not JobState.RUNNING:
                    return True
                left, pause = pause, min(2 * pause, LONGEST_PAUSE_SECONDS)
                if timeout_seconds is not None:
                    left = min(left, timeout_seconds - (time.monotonic() - began))
                if left <= 0:
                    return False
                time.sleep(left)
                watcher.look_if_ended()

    async def _awaited(self) -> OutputTree:
        """In turns, so that a task that is cancelled leaves no thread; the job goes on."""
        while not await asyncio.to_thread(self.wait, _AWAIT_SECONDS):
            pass
        return await asyncio.to_thread(self.result)

    def _shards(self) -> AbstractContextManager[ShardClients]:
        return open_shards(str(self._settings.broker_url))

    def _channels(self) -> closing[PartChannels]:
        return closing(PartChannels(self._settings, self.id))

    def _watcher(self, channels: PartChannels) -> Watcher:
        return Watcher(channels, self.id, self._plan, self._worker_timeout_seconds, self._watch)

    def _read(self) -> tuple[JobState, JobRecord]:
        with self._shards() as shards:
            return jobs.read_parts(shards, self.id, self._sealer).whole()

    def workers_now(self) -> WorkersNow | None:
        """Those that could run it; None where there are none."""
        weight = self.record.weight
        return find_workers(self._settings, self._plan.models, weight, self._worker_timeout_seconds, self._watch)

    def _look(self) -> tuple[JobState, JobRecord, int]:
        with self._shards() as shards:
            state, record = jobs.read_parts(shards, self.id, self._sealer).whole()
            workers, _, facts = jobs.workers(shards)
        slots = model_pinning.usable([slot for slots in workers.values() for slot in slots], self._plan.models)
        return state, msgspec.structs.replace(record, waits=of_job(waits_in(facts), self.id)), len(slots)

    def _check_usable(self, state: JobState, record: JobRecord) -> None:
        if state is JobState.FAILED:
            raise RowsFailedError(f"job {self.id} failed: {record.error}")
        if state is JobState.CANCELLED:
            predicted = f"{record.ledger['predicted']} of {self._plan.rows} rows were predicted"
            raise JobCancelledError(f"job {self.id} was cancelled; {predicted}")

    def _begin_again(self, record: JobRecord, read: int) -> int:
        """Nothing was read yet of what is void, or the caller has it."""
        if not read:
            return record.void
        raise self._not_own(record.differed.values())

    def _check_own(self, answer: Outputs, differed: Mapping[str, Differed], by_executor: set[str]) -> None:
        """Answers that are void were not put back; `by_executor` are the models whose answers may yet become so."""
        if void := differed.keys() & answer.by_executor:
            seen = "; ".join(f"model {name}: {differed[name]}" for name in void)
            raise MessageError(f"the answer to chunk {answer.index} of job {self.id} is void: {seen}; submit it again")
        by_executor.update(answer.by_executor)
        self._differed |= {one.model: one for one in answer.differed}
        if found := [one for one in answer.differed if one.model in by_executor]:
            raise self._not_own(found)

    def _not_own(self, differed: Iterable[Differed]) -> ExecutorDifferedError:
        seen = "; ".join(f"model {one.model}: {one}" for one in differed)
        return ExecutorDifferedError(
            f"job {self.id}: {seen}: outputs that were read before are not the model's own; read the job from its "
            "first row again"
        )

    def _answer(self, index: int, data: bytes) -> Outputs:
        expected = message(self.id, self._plan, index)
        answer: Answer = unpack(self._opened(expected, answer_context(self.id), data), Answer)
        if not isinstance(answer, Outputs):
            raise MessageError(f"the answer to {expected} is not one of a detached job")
        if (answer.job, answer.index) != (self.id, index):
            raise MessageError(f"the answer to {expected} is for chunk {answer.index} of job {answer.job}")
        return answer

    def _opened(self, expected: ChunkMessage, context: str, sealed: bytes) -> memoryview:
        try:
            return self._sealer.open(context, sealed)
        except SealError as error:
            raise SealError(f"the answer to {expected} cannot be read: {error}; submit the job again") from None

    def _part(self, answer: Outputs, failed: Mapping[str, FailureRecord]) -> Part:
        expected = message(self.id, self._plan, answer.index)
        for record in (*failed.values(), *answer.failed):
            self._failed.setdefault(record.model, record)
        if output := self._plan.output:
            part = part_of(answer, expected, answer.failed_rows)
            return stored_part(replace(part, stored=stored_of(answer, expected)), output.on_error)
        if not isinstance(answer.ref, InlineRef):
            raise MessageError(f"the answer to {expected} is not one of a detached job")
        payload = self._opened(expected, outputs_context(self.id, answer.index), answer.ref.payload)
        part, outputs = part_of(answer, expected), read_outputs(payload, expected, borrow=True)
        return replace(part, outputs=outputs).without(self._failed)
