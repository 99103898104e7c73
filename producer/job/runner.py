"""This module is a job's thread: it sends chunks while the window admits them, joins answers, hands parts over.

    feed --chunk--> encode --> put, publish --> (workers) --> take answers --> decode --> join --> hand over

The producer owns the truth: it keeps each open chunk's message and sends it again when a worker is gone, when Redis
was, or when its answer is overdue; the join makes a second answer harmless. While Redis is away the job waits.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

import redis

from producer.job.broker_channel import BrokerChannel
from producer.job.chunk_feeds import Feed
from producer.job.collector import Collector
from producer.job.dispatcher import Dispatcher
from producer.job.job_reporter import JobReporter
from producer.job.part_queue import PartQueue, Restarted
from producer.job.resend import Resend
from producer.records.failures import Failures
from producer.records.job_store import JobState
from producer.records.ledger import Ledger, warn_nonfinite
from producer.rows.assemble import Gathered
from producer.rows.part import OutputTree
from producer.scheduling import redis_backoff
from producer.scheduling.job_options import Terms
from producer.scheduling.load_balancer import LoadBalancer
from producer.scheduling.stragglers import Stragglers
from producer.scheduling.window import CHUNKS_PER_SLOT, Window
from producer.scheduling.worker_liveness import WorkerLiveness
from tasks.protocol.messages import Answer, Differed, ModelRef, Outputs
from tasks.protocol.records import JobRecord, SlotRecord
from worker_config.errors import (
    BrokerError,
    BrokerFullError,
    BrokerRefusedError,
    CeleriacError,
    ExecutorDifferedError,
    JobCancelledError,
    NoWorkerError,
    RowsFailedError,
)
from worker_config.retry_policy import LIVENESS_LOOK_SECONDS

logger = logging.getLogger(__name__)

# While chunks enough are in flight, answers may wait for each other: each look at the list has its price.
COLLECT_SECONDS = 0.004


class Runner:
    """One job from its first chunk to its end; `run` is the thread's body.

    Attributes:
        ledger, failures, stages, state: how far it is, and what slots did; read by the caller's thread.
        feed: where chunks come from.
        handover: parts on their way to the caller.
        differed: models of which an executor differed from their own graphs.
        begin_again: asked, where outputs that were joined are void, whether another run takes this one's place.

    With `terms.fail_together` the job ends when any of its models fails, else when none is left.
    """

    def __init__(
        self,
        channel: BrokerChannel,
        feed: Feed,
        dispatcher: Dispatcher,
        window: Window,
        queues: LoadBalancer,
        models: Sequence[ModelRef],
        record: JobRecord,
        slots: Sequence[SlotRecord],
        ledger: Ledger,
        *,
        ttl_seconds: int,
        worker_timeout_seconds: float,
        terms: Terms,
        watch: Callable[[], None] = lambda: None,
        likely_form: OutputTree | None = None,
        differed: dict[str, Differed] | None = None,
        first_index: int = 0,
    ) -> None:
        self.ledger = ledger
        self.failures = Failures(record.id, [model.name for model in models], together=terms.fail_together)
        self.state = JobState.RUNNING
        self.on_end: Callable[[str, Mapping[str, int], str], None] = lambda *_: None  # told state, ledger, error
        self._wake = threading.Event()
        self.begin_again: Callable[[], bool] = lambda: False
        self.differed = differed = {} if differed is None else differed
        self.part_queue = PartQueue(self._wake.set, terms.max_waiting_bytes)
        self._channel, self.feed, self._dispatcher, self._window, self._queues = (
            channel,
            feed,
            dispatcher,
            window,
            queues,
        )
        self._models, self._id = list(models), record.id
        self._worker_timeout_seconds, self._watch = worker_timeout_seconds, watch
        self._collector = Collector(
            channel,
            dispatcher,
            record.id,
            models,
            ledger,
            self.failures,
            terms,
            feed.rows,
            likely_form,
            differed,
            first_index,
        )
        self.stages = self._collector.stages
        self._reporter = JobReporter(
            channel, record, ttl_seconds, self.ledger, self.failures, self.stages, dispatcher.timeline, self.differed
        )
        self._first_index = first_index
        self._liveness, self._stragglers = WorkerLiveness(record.id, models, slots), Stragglers()
        self._resend = Resend(channel, dispatcher, self._liveness, self._stragglers, self.ledger, self._stop_before)
        self._answers: deque[Answer] = deque()
        self._damage: tuple[int, CeleriacError] | None = None
        self._run_id, self._cancelled = "", False
        self._tries, self._warns = 0, terms.policy.on_nonfinite == "warn"
        self._last_look = self._last_worker = time.monotonic()

    @property
    def next_index(self) -> int:
        """Beyond those of all chunks that were sent."""
        return self._first_index + self._dispatcher.chunks_sent

    @property
    def in_flight(self) -> int:
        """Chunks sent and not answered."""
        return len(self._window)

    @property
    def slots(self) -> list[SlotRecord]:
        """Slots that can run the job."""
        return self._liveness.slots

    @property
    def gathered(self) -> Gathered | None:
        """The whole arrays, if the caller wants them: large outputs then go straight to their place."""
        return self._collector.gathered

    @gathered.setter
    def gathered(self, gathered: Gathered) -> None:
        self._collector.gathered = gathered

    def cancel(self, *, wake: bool = True) -> None:
        """End soon, from any thread; the job's own, which needs no waking, may hold the lock for that."""
        self._cancelled = True
        if wake:
            self._wake.set()

    def run(self) -> None:
        """Run to the end; the error, if any, goes to the caller through the handover."""
        error: BaseException | None = None
        again = False
        try:
            self._loop()
            self.ledger.check(handed_over=False)  # only dropped rows are skipped now: one that is missing is found
            self.state = JobState.DONE
        except JobCancelledError as cancelled:
            self.state, error = JobState.CANCELLED, cancelled
        except ExecutorDifferedError as differed:
            again = self.begin_again()
            self.state, error = (JobState.RUNNING, Restarted()) if again else (JobState.FAILED, differed)
        except CeleriacError as failed:
            self.state, error = JobState.FAILED, failed
        except Exception as bug:
            logger.exception("job %s", self._id)
            self.state, error = JobState.FAILED, CeleriacError(f"a bug in Celeriac: {type(bug).__name__}: {bug}")
            error.__cause__ = bug
        finally:
            try:
                self._settle(error, goes_on=again)
            finally:
                self.part_queue.close(error)

    def _loop(self) -> None:
        while True:
            try:
                if not self._run_id:
                    self._begin()
                self._send()
                if self._is_over():
                    return
                self._take_answers()
                self._look_around()
                self._resend.late(self.slots)
                self._tries = 0
            except BrokerRefusedError:
                raise
            except BrokerError as error:
                self._wait_for_redis(error)

    def _begin(self) -> None:
        if not self._first_index:
            self._reporter.begin()
        elif self._reporter.update()[0] is JobState.CANCELLED:
            raise JobCancelledError(self._how_far("was cancelled"))
        self._window.leave_room(self._channel.redis_room())
        self._run_id = self._channel.run_id()

    def _send(self) -> None:
        max_parts = math.inf if self.feed.rows is not None else self._window.slots * CHUNKS_PER_SLOT
        try:
            while (
                self._damage is None
                and self.part_queue.has_room(max_parts)
                and self._dispatcher.send(self._collector.waiting)
            ):
                pass
        finally:
            self.ledger.chunks_sent = self._dispatcher.chunks_sent
            if self.feed.rows is None:
                self.ledger.rows = self.feed.given

    def _stop_before(self, index: int, error: CeleriacError) -> None:
        """Send no more; end by the error of the first damaged chunk, when those before it are handed over."""
        self._dispatcher.drop(index)
        if self._damage is None or index < self._damage[0]:
            self._damage = index, error

    def _is_over(self) -> bool:
        if self._damage is None:
            if self._dispatcher.open or not self.feed.exhausted():
                return False
            self._collector.end()
            self._hand_over()
            return True
        damaged, error = self._damage
        if any(index < damaged for index in self._dispatcher.open):
            return False
        raise error

    def _take_answers(self) -> None:
        self._answers.extend(self._wait_for_answers())
        try:
            while self._answers:
                answer = self._answers[0]  # until it is taken: Redis has it no more
                self._take(answer)
                self._collector.count_stages(self._answers.popleft())
        finally:  # what came before a failure is the caller's to keep
            self._hand_over()

    def _hand_over(self) -> None:
        for part in self._collector.pop_ready():
            self.part_queue.give(part)

    def _take(self, answer: Answer) -> None:
        opened = self._dispatcher.open.get(answer.index)
        try:
            if not self._collector.take(answer):
                self._stragglers.came_back(answer.index, time.monotonic())
                self._reporter.tell_differed()
                if self._dispatcher.is_back(answer.index):
                    self._resend.again([answer.index], with_rows=True)
        except RowsFailedError as failed:
            self._stop_before(answer.index, failed)
        if opened and isinstance(answer, Outputs) and answer.index not in self._dispatcher.open:
            self._stragglers.answered(answer.index, opened, answer.seconds, time.monotonic(), self._dispatcher.open)

    def _wait_for_answers(self) -> list[Answer]:
        if self._dispatcher.open:
            if not self._window.is_short:
                time.sleep(COLLECT_SECONDS)
            return self._channel.take_answers(self.feed.poll_seconds)
        # Nothing can be answered: wait for rows of a stream, or for the caller to take parts.
        self._wake.wait(self.feed.poll_seconds)
        self._wake.clear()
        return []

    def _look_around(self) -> None:
        if self._cancelled:
            raise JobCancelledError(self._how_far("was cancelled"))
        now = time.monotonic()
        if now - self._last_look < LIVENESS_LOOK_SECONDS:
            return
        self._last_look = now
        self._watch()
        state, lost = self._reporter.update()
        if state is JobState.CANCELLED:
            raise JobCancelledError(self._how_far("was cancelled"))
        run_id, self._run_id = self._run_id, self._channel.run_id()
        workers = self._channel.workers()
        self._liveness.update(workers, self._channel.seconds_left(workers), now)
        self._dispatcher.timeline.look(self.slots)
        self._window.slots = len(self.slots)
        self._window.leave_room(self._channel.redis_room())
        self._queues.update(self.slots)
        if lost or run_id != self._run_id:
            self._doubt()
        self._resend.stranded(now, self.slots)
        if self.slots:
            # What Redis may have lost, or never got.
            self._resend.again(
                [index for index, one in self._dispatcher.open.items() if not one.published], with_rows=True
            )
        if self.slots or not self._dispatcher.open:
            self._last_worker = now
        elif now - self._last_worker > self._worker_timeout_seconds:
            names = ", ".join(map(str, self._models))
            raise NoWorkerError(
                self._how_far(f"ends: no worker has held {names} for {self._worker_timeout_seconds:.0f} seconds")
            )

    def _wait_for_redis(self, error: BrokerError) -> None:
        """Until it answers, or somebody cancels the job; or for nothing, as it has ended with the embedded system."""

        def is_over() -> bool:
            self._watch()
            return self._cancelled

        self._watch()
        logger.warning("job %s waits: %s", self._id, error)
        redis_backoff.wait_for_redis(self._channel.url, self._tries, self._wake, is_over)
        self._tries += 1
        if self._cancelled:
            raise JobCancelledError(self._how_far("was cancelled"))
        if not isinstance(error, BrokerFullError):
            logger.warning("job %s goes on", self._id)
            self._doubt()
            self._last_worker = time.monotonic()  # workers have to come back, too
        self._last_look = -LIVENESS_LOOK_SECONDS  # at once

    def _doubt(self) -> None:
        """Redis may have lost whatever it was given."""
        self._channel.doubt()
        self._dispatcher.doubt()
        self._reporter.doubt()

    def _how_far(self, what: str) -> str:
        rows = "?" if self.feed.rows is None else self.feed.rows
        return f"job {self._id} {what}; {self.ledger.predicted} of {rows} rows were predicted"

    def _settle(self, error: BaseException | None, *, goes_on: bool) -> None:
        """Leave nothing behind but the job's record; `goes_on` if another run takes this one's place."""
        self._channel.measures.ended = "again" if goes_on else self.state.value
        self.ledger.skipped = self.ledger.rows - self.ledger.predicted - self.ledger.failed
        self.feed.close()
        if self._warns and not goes_on:
            warn_nonfinite(self._id, self.ledger)
        if not goes_on:
            self.on_end(self.state, self.ledger.as_dict(), str(error or ""))
        try:
            self._watch()  # a system that has ended takes all of the job with it
        except CeleriacError:
            return self._channel.close()
        try:
            if not goes_on:
                self._reporter.finish(self.state, str(error or ""))
            self._dispatcher.close()
            self._channel.forget_job()
        except (redis.RedisError, CeleriacError) as unreachable:
            # The keys' time to live takes care of them.
            logger.warning("job %s: cannot tell Redis that it ended: %s", self._id, unreachable)
        self._channel.close()
