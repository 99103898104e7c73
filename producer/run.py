"""This module is a job's thread: it sends chunks while the window admits them, joins answers, hands parts over.

    feed --chunk--> encode --> put, publish --> (workers) --> take answers --> decode --> join --> hand over

The producer owns the truth: it keeps each open chunk's message and sends it again when a worker is gone, to another;
the join makes a second answer harmless.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NoReturn, cast

import msgspec
import redis

from producer import job_store, placement
from producer.aggregator import Gathered, Join, OutputTree, Part, without
from producer.failures import Failures
from producer.feeds import Feed
from producer.handover import Handover
from producer.job_store import JobState
from producer.ledger import Ledger
from producer.outbox import Outbox
from producer.queues import Queues
from producer.window import CHUNKS_PER_SLOT, Window
from producer.wire import Wire
from tasks import codec
from tasks.connection import broker_errors
from tasks.messages import (
    Answer,
    ChunkMessage,
    Failure,
    FailureRecord,
    FileRef,
    JobRecord,
    ModelRef,
    Outputs,
    SlotRecord,
)
from tasks.scratch import Scratch
from worker_config.errors import (
    CeleriacError,
    JobCancelledError,
    MessageError,
    NoWorkerError,
    PayloadError,
    RowsFailedError,
)

logger = logging.getLogger(__name__)

LOOK_AROUND_SECONDS = 1.0
# While chunks enough are in flight, answers may wait for each other: each look at the list has its price.
COLLECT_SECONDS = 0.004
# A chunk whose rows are not where they should be is sent so often, then they have failed.
TIMES_SENT = 4


class Run:
    """One job from its first chunk to its end; `run` is the thread's body.

    Attributes:
        ledger, failures, state: how far it is; read by the caller's thread.
        slots: slots that can run the job.
        handover: parts on their way to the caller.
        gathered: the whole arrays, if the caller wants them: large outputs then go straight to their place.

    With `fail_together` the job ends when any of its models fails, else when none is left.
    """

    def __init__(
        self,
        wire: Wire,
        feed: Feed,
        outbox: Outbox,
        window: Window,
        queues: Queues,
        models: Sequence[ModelRef],
        record: JobRecord,
        slots: Sequence[SlotRecord],
        *,
        ttl_seconds: int,
        worker_timeout_seconds: float,
        fail_together: bool = False,
    ) -> None:
        done = feed.first_row
        self.ledger = Ledger(rows=feed.rows or done, predicted=done, written=done, resumed=done)
        self.failures = Failures(record.id, [model.name for model in models], together=fail_together)
        self.state = JobState.RUNNING
        self.slots = list(slots)
        self._wake = threading.Event()
        self.handover = Handover(on_taken=self._wake.set)
        self.gathered: Gathered | None = None
        self._scratch = Scratch()
        self._cancelled = False
        self._wire = wire
        self._feed = feed
        self._outbox = outbox
        self._window = window
        self._queues = queues
        self._models = list(models)
        self._record = record
        self._ttl_seconds = ttl_seconds
        self._worker_timeout_seconds = worker_timeout_seconds
        self._join = Join()
        self._queues_of: defaultdict[str, set[str]] = defaultdict(set)
        self._stranded: set[str] = set()
        self._know(slots)
        self._damage: tuple[int, CeleriacError] | None = None
        self._last_look = self._last_worker = time.monotonic()

    @property
    def in_flight(self) -> int:
        """Chunks sent and not answered."""
        return len(self._window)

    def cancel(self) -> None:
        """End soon, from any thread."""
        self._cancelled = True
        self._wake.set()

    def run(self) -> None:
        """Run to the end; the error, if any, goes to the caller through the handover."""
        error: BaseException | None = None
        try:
            self._loop()
            self.state = JobState.DONE
        except JobCancelledError as cancelled:
            self.state, error = JobState.CANCELLED, cancelled
        except CeleriacError as failed:
            self.state, error = JobState.FAILED, failed
        except Exception as bug:
            logger.exception("job %s", self._record.id)
            self.state, error = JobState.FAILED, CeleriacError(f"a bug in Celeriac: {type(bug).__name__}: {bug}")
            error.__cause__ = bug
        finally:
            try:
                self._settle(error)
            finally:
                self.handover.close(error)

    def _loop(self) -> None:
        with broker_errors(self._wire.url):
            job_store.create(self._wire.client, self.record(), self._ttl_seconds)
        self._window.leave_room(self._wire.redis_room())
        while True:
            self._send()
            if self._is_over():
                return
            try:
                for answer in self._wait_for_answers():
                    try:
                        self._take(answer)
                    except RowsFailedError as failed:
                        self._stop_before(answer.index, failed)
            finally:  # what came before a failure is the caller's to keep
                for part in self._join.pop_ready():
                    self.handover.give(part)
            self._look_around()

    def _send(self) -> None:
        max_parts = math.inf if self._feed.rows is not None else self._window.slots * CHUNKS_PER_SLOT
        while (
            self._damage is None
            and self.handover.has_room(max_parts)
            and (sent := self._outbox.send(self._join.waiting))
        ):
            self.ledger.chunks_sent += sent
            if self._feed.rows is None:
                self.ledger.rows = self._feed.given

    def _stop_before(self, index: int, error: CeleriacError) -> None:
        """Send no more; end by the error of the first damaged chunk, when those before it are handed over."""
        self._outbox.drop(index)
        if self._damage is None or index < self._damage[0]:
            self._damage = index, error

    def _is_over(self) -> bool:
        if self._damage is None:
            return not self._outbox.open and self._feed.exhausted()
        damaged, error = self._damage
        if any(index < damaged for index in self._outbox.open):
            return False
        raise error

    def _wait_for_answers(self) -> list[Answer]:
        if self._outbox.open:
            if not self._window.is_short:
                time.sleep(COLLECT_SECONDS)
            return self._wire.take_answers(self._feed.poll_seconds)
        # Nothing can be answered: wait for rows of a stream, or for the caller to take parts.
        self._wake.wait(self._feed.poll_seconds)
        self._wake.clear()
        return []

    def _take(self, answer: Answer) -> None:
        if answer.job != self._record.id:
            raise MessageError(f"an answer of job {answer.job} on the list of job {self._record.id}")
        opened = self._outbox.open.get(answer.index)
        if opened is None:
            self.ledger.duplicates += 1
            if isinstance(answer, Outputs):
                self._wire.release([answer.ref])
            return
        message = opened.message
        if isinstance(answer, Failure):
            if answer.record.stage == "fetch" and opened.times_sent < TIMES_SENT:
                self._send_again([answer.index])
                return
            # Those that had failed before are not why the job ends.
            last = self.failures.judge(answer.failed) if self.failures.models else None
            self._fail(last if last and last.model else self._named(answer.record, message))
        if (answer.start, answer.stop) != (message.start, message.stop):
            raise MessageError(f"the answer to {message} is for rows {answer.start}-{answer.stop}")
        if last := self.failures.judge(answer.failed):
            self._wire.release([answer.ref])
            self._fail(last)
        self._outbox.leave_out(self.failures.models)
        loaded = self._load(answer, message)
        if loaded is None:
            self._send_again([answer.index])
            return
        self.failures.keep(answer.failed)
        outputs, size = loaded
        self._join.add(answer.index, answer.start, answer.stop, outputs)
        self._outbox.answered(answer.index, answer.seconds, size)
        self.ledger.chunks_answered += 1
        self.ledger.predicted += answer.stop - answer.start

    def _load(self, answer: Outputs, message: ChunkMessage) -> tuple[OutputTree, int] | None:
        """An answer's outputs, and the bytes that they were in the store; None if they are gone."""
        gathered = self.gathered
        name = self._last_model(message)
        if gathered and isinstance(answer.ref, FileRef):
            room = gathered.room(answer.start, answer.stop)
            form = room[name] if name and isinstance(room, dict) else room
            parts = [] if form is None else codec.encode_parts(cast("codec.Tree", form))
            if room is not None and self._wire.load_into(answer.ref, parts):
                return room, sum(map(len, parts))
        payload = self._wire.load(answer.ref, self._scratch if gathered else None)
        if payload is None and self._outbox.open[answer.index].times_sent < TIMES_SENT:
            return None
        try:
            outputs = cast("OutputTree", codec.decode(payload or b"", borrow=True))  # the join looks at it
        except PayloadError as error:
            raise MessageError(f"the answer to {message} cannot be read: {error}") from None
        outputs = without({name: outputs} if name else outputs, self.failures.models)
        if gathered and isinstance(payload, memoryview):  # the next answer is read into the same memory
            outputs = gathered.place(Part(answer.index, answer.start, answer.stop, outputs)).outputs
        return outputs, len(payload or b"")

    def _last_model(self, message: ChunkMessage) -> str:
        """The model that is left of several, empty for other messages: its outputs and failures come without a name."""
        return message.models[0].name if len(message.models) == 1 < len(self._models) else ""

    def _named(self, record: FailureRecord, message: ChunkMessage) -> FailureRecord:
        whole_chunk = record.stage in ("fetch", "worker")
        return record if whole_chunk else msgspec.structs.replace(record, model=self._last_model(message))

    def _fail(self, record: FailureRecord) -> NoReturn:
        self.failures.keep([record])
        self.ledger.failed += record.stop - record.start
        self.ledger.chunks_answered += 1
        raise RowsFailedError(str(record))

    def _look_around(self) -> None:
        if self._cancelled:
            raise JobCancelledError(self._how_far("was cancelled"))
        now = time.monotonic()
        if now - self._last_look < LOOK_AROUND_SECONDS:
            return
        self._last_look = now
        with broker_errors(self._wire.url):
            state, lost = job_store.update(self._wire.client, self.record(), self._ttl_seconds)
        if state is JobState.CANCELLED:
            raise JobCancelledError(self._how_far("was cancelled"))
        found = self._wire.workers()
        self.slots = placement.usable([slot for slots in found.values() for slot in slots], self._models)
        self._window.slots = len(self.slots)
        self._window.leave_room(self._wire.redis_room())
        self._queues.update(self.slots)
        for worker in self._queues_of.keys() - found.keys():
            logger.warning("job %s: %s gone", self._record.id, worker)
            self._stranded |= self._queues_of.pop(worker)
        if lost:
            self._stranded |= {opened.queue for opened in self._outbox.open.values()}
        self._know(self.slots)
        if self._stranded and self.slots:
            # Nobody knows which chunks of a queue were with the worker; to send all is harmless, and they are few.
            self._send_again([index for index, opened in self._outbox.open.items() if opened.queue in self._stranded])
            self._stranded.clear()
        if self.slots or not self._outbox.open:
            self._last_worker = now
        elif now - self._last_worker > self._worker_timeout_seconds:
            names = ", ".join(map(str, self._models))
            raise NoWorkerError(
                self._how_far(f"ends: no worker has held {names} for {self._worker_timeout_seconds:.0f} seconds")
            )

    def _know(self, slots: Iterable[SlotRecord]) -> None:
        """Remember where these workers take chunks from, for when they are gone."""
        for slot in slots:
            self._queues_of[slot.worker].add(slot.queue)

    def _send_again(self, indexes: Sequence[int]) -> None:
        sent, unreadable = self._outbox.send_again([index for index in indexes if index in self._outbox.open])
        self.ledger.chunks_sent_again += sent
        for index, error in unreadable:
            self._stop_before(index, error)

    def record(self) -> JobRecord:
        """The job's record as it stands."""
        failed = dict(self.failures.models)
        now = time.time()
        return msgspec.structs.replace(self._record, ledger=self.ledger.as_dict(), updated_at=now, failed_models=failed)

    def _how_far(self, what: str) -> str:
        rows = "?" if self._feed.rows is None else self._feed.rows
        return f"job {self._record.id} {what}; {self.ledger.predicted} of {rows} rows were predicted"

    def _settle(self, error: BaseException | None) -> None:
        """Leave nothing behind but the job's record."""
        self.ledger.skipped = self.ledger.rows - self.ledger.predicted - self.ledger.failed
        self._feed.close()
        record = msgspec.structs.replace(self.record(), error=str(error or ""))
        try:
            job_store.finish(self._wire.client, record, self.state, self._ttl_seconds)
            self._outbox.close()
            self._wire.forget_job()
        except (redis.RedisError, CeleriacError) as unreachable:
            # The keys' time to live takes care of them.
            logger.warning("job %s: cannot tell Redis that it ended: %s", self._record.id, unreachable)
        self._wire.close()
