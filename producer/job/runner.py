"""A job's thread: it sends chunks while the window admits them, joins answers, hands parts over.

    feed --chunk--> encode --> put, publish --> (workers) --> take answers --> decode --> join --> hand over

The producer owns the truth: it keeps each open chunk's message and sends it again when a worker is gone, when Redis
was, or when its answer is overdue; the join makes a second answer harmless. While Redis is away the job waits.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable

from producer.broker.broker_channel import ANSWERS_AT_ONCE
from producer.job.collector import Collector
from producer.job.dispatcher import Dispatcher
from producer.job.job_context import JobContext
from producer.job.job_reporter import JobReporter
from producer.job.part_queue import PartQueue
from producer.job.resend import Resender, SpaceWait
from producer.records.job_store import JobState
from producer.records.ledger import warn_nonfinite
from producer.records.timeline import Outcome
from producer.rows.assemble import ResultArrays
from producer.scheduling.chunk_sizer import ChunkSizer
from producer.scheduling.window import CHUNKS_PER_SLOT, Window
from tasks.protocol.messages import Answer, Failure, Outputs, PartRef
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

logger: logging.Logger = logging.getLogger(__name__)

# While chunks enough are in flight, answers may wait for each other: each look at the list has its price.
COLLECT_SECONDS = 0.008


class Runner:
    """One job from its first chunk to its end; `run` is the thread's body.

    Attributes:
        context: what it counts; read by the caller's thread.
        state: running, or how it ended.
        window: what is in flight.
        gather: gives the whole arrays, as `Collector.gather` does; for the caller's thread.

    With `fail_together` the job ends when any of its models fails, else when none is left.
    """

    def __init__(self, context: JobContext, chunk_sizer: ChunkSizer, part_queue: PartQueue) -> None:
        self.context = context
        self.state: JobState = JobState.RUNNING
        self._part_queue = part_queue
        self._channel = context.channel
        self._dispatcher = Dispatcher(context, chunk_sizer)
        self.window: Window = self._dispatcher.window
        self._collector = Collector(context, self._dispatcher)
        self.gather: Callable[[], ResultArrays] = self._collector.gather
        self._reporter = JobReporter(context)
        self._resender = Resender(context, self._dispatcher)
        self._took_all = True  # at the last look; else more are there already
        self._space = SpaceWait(context.id, self._dispatcher)
        self._answers: deque[Answer] = deque()
        self._has_begun, self._cancelled, self._tries = False, False, 0

    @property
    def slots(self) -> list[SlotRecord]:
        """Slots that can run the job."""
        return self._resender.liveness.slots

    def cancel(self, *, wake: bool = True) -> None:
        """End soon, from any thread; the job's own, which needs no waking, may hold the lock for that."""
        self._cancelled = True
        if wake:
            self._part_queue.wake.set()

    def run(self, prepare_next: Callable[[], Runner | None]) -> Runner | None:
        """Run to the end; the error, if any, goes to the caller through the queue of parts.

        Args:
            prepare_next: asked, where outputs that were joined are void, for another run that takes this one's place.

        Returns:
            That other run.
        """
        error: BaseException | None = None
        following: Runner | None = None
        try:
            self._loop()
            # Only dropped rows are skipped now: one that is missing is found.
            self.context.ledger.check(handed_over=False)
            self.state = JobState.DONE
        except JobCancelledError as cancelled:
            self.state, error = JobState.CANCELLED, cancelled
        except ExecutorDifferedError as differed:
            following = prepare_next()
            self.state, error = JobState.RUNNING if following else JobState.FAILED, differed
        except CeleriacError as failed:
            self.state, error = JobState.FAILED, failed
        except Exception as bug:
            logger.exception("job %s", self.context.id)
            self.state, error = JobState.FAILED, CeleriacError(f"a bug in Celeriac: {type(bug).__name__}: {bug}")
            error.__cause__ = bug
        finally:
            try:
                self._settle(error, restarts=following is not None)
            finally:
                if following is None:
                    self._part_queue.close(error)
        return following

    def _loop(self) -> None:
        while True:
            try:
                if not self._has_begun:
                    self._begin()
                self._send()
                if self._is_over():
                    return
                self._take_answers()
                self._look_around()
                if self._took_all:  # of others the chunks are not late, but this thread is
                    self._resender.late()
                self._space.look()
                self._heed_lost()
                self._tries = 0
            except BrokerError as error:
                if isinstance(error, BrokerRefusedError) and not self._has_begun:
                    raise  # it has never been otherwise
                self._wait_for_redis(error)

    def _begin(self) -> None:
        if not self.context.feed.first_index:
            self._reporter.begin()
        elif self._reporter.update()[0] is JobState.CANCELLED:
            raise JobCancelledError(self._how_far("was cancelled"))
        self.window.leave_room(self._channel.redis_room(slot.queue for slot in self.context.spec.slots))
        self._channel.look()
        self._channel.lost.clear()
        self._has_begun = True
        now = time.monotonic()
        self._resender.liveness.is_due(now)
        self._resender.look(now)  # when records expire tells a worker that ends soon from one that was killed

    def _send(self) -> None:
        max_parts = math.inf if self.context.feed.rows is not None else self.window.slots * CHUNKS_PER_SLOT
        try:
            while self._part_queue.has_room(max_parts) and self._dispatcher.send(self._collector.join.waiting):
                pass
        finally:
            if self.context.feed.rows is None:
                self.context.ledger.rows = self.context.feed.next_row

    def _is_over(self) -> bool:
        if self._dispatcher.stop is None:
            if self._dispatcher.open or not self.context.feed.exhausted():
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
        self._took_all = len(self._answers) < ANSWERS_AT_ONCE
        try:
            while self._answers:
                self._collect(self._answers[0])
                self._answers.popleft()  # only now: Redis has it no more
        finally:  # what came before a failure is the caller's to keep
            self.context.ledger.damaged = self._channel.damaged
            self._hand_over()

    def _hand_over(self) -> None:
        for part in self._collector.join.pop_ready():
            self._part_queue.give(part)

    def _collect(self, answer: Answer) -> None:
        chunk = self._dispatcher.open.get(answer.index)
        outcome, error = self._collector.collect(answer)
        if error is not None:
            self._dispatcher.stop_before(answer.index, error)
        if chunk is None:
            self.context.timeline.answered(answer, outcome)
        else:
            if outcome is Outcome.JOINED and isinstance(answer, Outputs):
                self._resender.answered(chunk, answer.seconds)
                if isinstance(answer.ref, PartRef):
                    self._space.has_room()
            if outcome is Outcome.RESEND:
                all_back = chunk.take_back(time.monotonic())
                self._reporter.report_differed()
                if isinstance(answer, Failure) and answer.record.stage == "full":
                    self._space.hold(chunk, answer.record)
                elif all_back:
                    self._dispatcher.resend([chunk], with_rows=True)
            self.context.timeline.answered(answer, outcome, chunk.first_sent_at, chunk.times_sent)
        self._channel.measures.count_stages(answer)

    def _wait_for_answers(self) -> list[Answer]:
        if self._dispatcher.open:
            if self._took_all and not self.window.is_short:
                time.sleep(COLLECT_SECONDS)
            return self._channel.take_answers(self.context.feed.poll_seconds)
        # Nothing can be answered: wait for rows of a stream, or for the caller to take parts.
        self._part_queue.wake.wait(self.context.feed.poll_seconds)
        self._part_queue.wake.clear()
        return []

    def _look_around(self) -> None:
        if self._cancelled:
            raise JobCancelledError(self._how_far("was cancelled"))
        liveness, now = self._resender.liveness, time.monotonic()
        if not liveness.is_due(now):
            return
        self.context.watch()
        state, lost = self._reporter.update()
        if state is JobState.CANCELLED:
            raise JobCancelledError(self._how_far("was cancelled"))
        self._channel.look()
        self._channel.lost |= lost
        self._heed_lost()
        self._resender.look(now)
        self.context.timeline.look(liveness.slots)
        # A shard that is away may have the workers; what does not answer does not count.
        if absence := liveness.absence(now, needed=bool(self._dispatcher.open) and self._channel.is_whole):
            raise NoWorkerError(self._how_far(f"ends: {absence}"))

    def _wait_for_redis(self, error: BrokerError) -> None:
        """Until it answers, or somebody cancels the job; or for nothing, as it has ended with the embedded system."""

        def is_over() -> bool:
            self.context.watch()
            return self._cancelled

        self.context.watch()
        logger.warning("job %s waits: %s", self.context.id, error)
        self._channel.wait_until_up(self._tries, self._part_queue.wake, is_over)
        self._tries += 1
        if self._cancelled:
            raise JobCancelledError(self._how_far("was cancelled"))
        was_away = not isinstance(error, BrokerFullError)
        if was_away:
            logger.warning("job %s goes on", self.context.id)
            self._channel.lost = self._channel.all_shards()
            self._heed_lost()
        self._resender.liveness.look_at_once(time.monotonic(), was_away=was_away)

    def _heed_lost(self) -> None:
        """Shards may have lost whatever they were given."""
        if self._channel.lost:
            lost, self._channel.lost = self._channel.lost, set()
            self._channel.invalidate(lost)
            self._dispatcher.invalidate(lost)
            self._reporter.invalidate()

    def _how_far(self, what: str) -> str:
        rows = "?" if self.context.feed.rows is None else self.context.feed.rows
        return f"job {self.context.id} {what}; {self.context.ledger.predicted} of {rows} rows were predicted"

    def _settle(self, error: BaseException | None, *, restarts: bool) -> None:
        """Leave nothing behind but the job's record; `restarts` if another run takes this one's place."""
        self._channel.measures.ended = "again" if restarts else self.state.value
        self.context.waits = ""
        ledger, spec = self.context.ledger, self.context.spec
        ledger.skipped = ledger.rows - ledger.predicted - ledger.failed
        self.context.feed.close()
        if not restarts:
            if spec.options.policy.on_nonfinite == "warn":
                warn_nonfinite(self.context.id, ledger)
            self.context.trace.end(self.state, ledger.as_dict(), str(error or ""))
        try:
            self.context.watch()  # a system that has ended takes all of the job with it
        except CeleriacError:
            return self._channel.close()
        try:
            if not restarts:
                self._reporter.finish(self.state, str(error or ""))
            self._dispatcher.close()
            self._channel.forget_job()
        except CeleriacError as unreachable:
            # The keys' time to live takes care of them.
            logger.warning("job %s: cannot tell Redis that it ended: %s", self.context.id, unreachable)
        self._channel.close()
