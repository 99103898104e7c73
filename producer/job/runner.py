"""A job's thread: it sends chunks while the window admits them, joins answers, hands parts over.

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
from collections.abc import Callable

import redis

from producer.job.collector import Collector
from producer.job.dispatcher import Dispatcher
from producer.job.job_context import JobContext
from producer.job.job_reporter import JobReporter
from producer.job.part_queue import PartQueue, Restarted
from producer.job.resend import Resender
from producer.records.job_store import JobState
from producer.records.ledger import warn_nonfinite
from producer.records.timeline import Outcome
from producer.scheduling import redis_backoff
from producer.scheduling.chunk_sizer import ChunkSizer
from producer.scheduling.load_balancer import LoadBalancer
from producer.scheduling.stragglers import Stragglers
from producer.scheduling.window import CHUNKS_PER_SLOT, Window
from producer.scheduling.worker_liveness import WorkerLiveness
from tasks.protocol.messages import Answer, Outputs
from tasks.protocol.records import SlotRecord
from worker_config.errors import (
    BrokerError,
    BrokerFullError,
    BrokerRefusedError,
    CeleriacError,
    ExecutorDifferedError,
    JobCancelledError,
    NoWorkerError,
)

logger = logging.getLogger(__name__)

# While chunks enough are in flight, answers may wait for each other: each look at the list has its price.
COLLECT_SECONDS = 0.004


class Runner:
    """One job from its first chunk to its end; `run` is the thread's body.

    Attributes:
        ledger, failures, stages, state: how far it is, and what slots did; read by the caller's thread.
        feed: where chunks come from.
        part_queue: parts on their way to the caller.
        window: what is in flight.
        gather: gives the whole arrays, as `Collector.gather` does; for the caller's thread.
        differed: models of which an executor differed from their own graphs.

    With `fail_together` the job ends when any of its models fails, else when none is left.
    """

    def __init__(self, context: JobContext, chunk_sizer: ChunkSizer) -> None:
        self.ledger, self.failures, self.differed = context.ledger, context.failures, context.differed
        self.state = JobState.RUNNING
        self._wake = threading.Event()
        self.part_queue = PartQueue(self._wake.set, context.options.max_waiting_bytes)
        self.feed = context.feed
        self.window = Window(len(context.spec.slots))
        self._context, self._channel = context, context.channel
        self._balancer = LoadBalancer(context.spec.slots)
        self._dispatcher = Dispatcher(context, self.window, chunk_sizer, self._balancer)
        self._collector = Collector(context, self._dispatcher)
        self.stages, self.gather = self._collector.stages, self._collector.gather
        self._reporter = JobReporter(context, self.stages)
        self._stragglers = Stragglers()
        timeout_seconds = context.worker_timeout_seconds
        self._liveness = WorkerLiveness(context.id, context.models, timeout_seconds, context.spec.slots)
        self._resender = Resender(self._channel, self._dispatcher, self._liveness, self._stragglers)
        self._answers: deque[Answer] = deque()
        self._run_id, self._cancelled, self._tries = "", False, 0

    @property
    def next_index(self) -> int:
        """Beyond those of all chunks that were sent."""
        return self._context.first_index + self.ledger.chunks_sent

    @property
    def in_flight(self) -> int:
        """Chunks sent and not answered."""
        return len(self.window)

    @property
    def slots(self) -> list[SlotRecord]:
        """Slots that can run the job."""
        return self._liveness.slots

    def cancel(self, *, wake: bool = True) -> None:
        """End soon, from any thread; the job's own, which needs no waking, may hold the lock for that."""
        self._cancelled = True
        if wake:
            self._wake.set()

    def run(self, prepare_next: Callable[[], bool]) -> None:
        """Run to the end; the error, if any, goes to the caller through the queue of parts.

        Args:
            prepare_next: asked, where outputs that were joined are void, whether another run takes this one's place.
        """
        error: BaseException | None = None
        restarts = False
        try:
            self._loop()
            self.ledger.check(handed_over=False)  # only dropped rows are skipped now: one that is missing is found
            self.state = JobState.DONE
        except JobCancelledError as cancelled:
            self.state, error = JobState.CANCELLED, cancelled
        except ExecutorDifferedError as differed:
            restarts = prepare_next()
            self.state, error = (JobState.RUNNING, Restarted()) if restarts else (JobState.FAILED, differed)
        except CeleriacError as failed:
            self.state, error = JobState.FAILED, failed
        except Exception as bug:
            logger.exception("job %s", self._context.id)
            self.state, error = JobState.FAILED, CeleriacError(f"a bug in Celeriac: {type(bug).__name__}: {bug}")
            error.__cause__ = bug
        finally:
            try:
                self._settle(error, restarts=restarts)
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
                self._resender.late()
                self._tries = 0
            except BrokerRefusedError:
                raise
            except BrokerError as error:
                self._wait_for_redis(error)

    def _begin(self) -> None:
        if not self._context.first_index:
            self._reporter.begin()
        elif self._reporter.update()[0] is JobState.CANCELLED:
            raise JobCancelledError(self._how_far("was cancelled"))
        self.window.leave_room(self._channel.redis_room())
        self._run_id = self._channel.run_id()
        self._liveness.is_due(time.monotonic())  # not before a second has gone

    def _send(self) -> None:
        max_parts = math.inf if self.feed.rows is not None else self.window.slots * CHUNKS_PER_SLOT
        try:
            while self.part_queue.has_room(max_parts) and self._dispatcher.send(self._collector.join.waiting):
                pass
        finally:
            if self.feed.rows is None:
                self.ledger.rows = self.feed.next_row

    def _is_over(self) -> bool:
        if self._dispatcher.stop is None:
            if self._dispatcher.open or not self.feed.exhausted():
                return False
            self._collector.end()
            self._hand_over()
            return True
        stop, error = self._dispatcher.stop
        if any(index < stop for index in self._dispatcher.open):
            return False
        raise error

    def _take_answers(self) -> None:
        self._answers.extend(self._wait_for_answers())
        try:
            while self._answers:
                self._collect(self._answers[0])
                self._answers.popleft()  # only now: Redis has it no more
        finally:  # what came before a failure is the caller's to keep
            self.ledger.damaged = self._channel.damaged
            self._hand_over()

    def _hand_over(self) -> None:
        for part in self._collector.join.pop_ready():
            self.part_queue.give(part)

    def _collect(self, answer: Answer) -> None:
        chunk = self._dispatcher.open.get(answer.index)
        outcome, error = self._collector.collect(answer)
        now = time.monotonic()
        if error is not None:
            self._dispatcher.stop_before(answer.index, error)
        if chunk is None:
            self._context.timeline.answered(answer, outcome)
        else:
            if outcome is Outcome.JOINED and isinstance(answer, Outputs):
                self._stragglers.answered(chunk, answer.seconds, now, self._dispatcher.open.values())
            if outcome is Outcome.RESEND:
                all_back = chunk.take_back(now)
                self._reporter.report_differed()
                if all_back:
                    self._dispatcher.resend([chunk], with_rows=True)
            self._context.timeline.answered(answer, outcome, chunk.first_sent_at, chunk.times_sent)
        self._collector.count_stages(answer)

    def _wait_for_answers(self) -> list[Answer]:
        if self._dispatcher.open:
            if not self.window.is_short:
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
        if not self._liveness.is_due(now):
            return
        self._context.watch()
        state, lost = self._reporter.update()
        if state is JobState.CANCELLED:
            raise JobCancelledError(self._how_far("was cancelled"))
        run_id, self._run_id = self._run_id, self._channel.run_id()
        workers = self._channel.workers()
        self._liveness.update(workers, now, self._channel.seconds_left(workers))
        self._context.timeline.look(self.slots)
        self.window.slots = len(self.slots)
        self.window.leave_room(self._channel.redis_room())
        self._balancer.update(self.slots)
        if lost or run_id != self._run_id:
            self._invalidate()
        self._resender.stranded(now)
        self._resender.lost()
        if absence := self._liveness.absence(now, needed=bool(self._dispatcher.open)):
            raise NoWorkerError(self._how_far(f"ends: {absence}"))

    def _wait_for_redis(self, error: BrokerError) -> None:
        """Until it answers, or somebody cancels the job; or for nothing, as it has ended with the embedded system."""

        def is_over() -> bool:
            self._context.watch()
            return self._cancelled

        self._context.watch()
        logger.warning("job %s waits: %s", self._context.id, error)
        redis_backoff.wait_for_redis(self._channel.url, self._tries, self._wake, is_over)
        self._tries += 1
        if self._cancelled:
            raise JobCancelledError(self._how_far("was cancelled"))
        was_away = not isinstance(error, BrokerFullError)
        if was_away:
            logger.warning("job %s goes on", self._context.id)
            self._invalidate()
        self._liveness.look_at_once(time.monotonic(), was_away=was_away)

    def _invalidate(self) -> None:
        """Redis may have lost whatever it was given."""
        self._channel.invalidate()
        self._dispatcher.invalidate()
        self._reporter.invalidate()

    def _how_far(self, what: str) -> str:
        rows = "?" if self.feed.rows is None else self.feed.rows
        return f"job {self._context.id} {what}; {self.ledger.predicted} of {rows} rows were predicted"

    def _settle(self, error: BaseException | None, *, restarts: bool) -> None:
        """Leave nothing behind but the job's record; `restarts` if another run takes this one's place."""
        self._channel.measures.ended = "again" if restarts else self.state.value
        self.ledger.skipped = self.ledger.rows - self.ledger.predicted - self.ledger.failed
        self.feed.close()
        if not restarts:
            if self._context.options.policy.on_nonfinite == "warn":
                warn_nonfinite(self._context.id, self.ledger)
            self._context.trace.end(self.state, self.ledger.as_dict(), str(error or ""))
        try:
            self._context.watch()  # a system that has ended takes all of the job with it
        except CeleriacError:
            return self._channel.close()
        try:
            if not restarts:
                self._reporter.finish(self.state, str(error or ""))
            self._dispatcher.close()
            self._channel.forget_job()
        except (redis.RedisError, CeleriacError) as unreachable:
            # The keys' time to live takes care of them.
            logger.warning("job %s: cannot tell Redis that it ended: %s", self._context.id, unreachable)
        self._channel.close()
