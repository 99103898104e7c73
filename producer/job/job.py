"""An attached job as its caller sees it: its parts, the whole result, progress, cancel, ledger."""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal, overload

from producer.job.job_context import JobContext
from producer.job.job_handle import JobHandle
from producer.job.progress_bar import show_until_end
from producer.job.restartable_runner import RestartableRunner
from producer.records.job_store import JobState
from producer.records.progress import Progress
from producer.rows.part import Marks, OutputTree, Part
from producer.rows.returned import Form, Returns
from producer.scheduling import model_pinning
from tasks.protocol.codec import Array
from tasks.protocol.messages import FailureRecord
from tasks.protocol.records import JobRecord
from worker_config.errors import JobCancelledError, RequestTimeoutError, UsageError

_AWAIT_SECONDS = 0.5


class Job(JobHandle):
    """A data set on its way through one or several models; made by `Client.submit`.

    The work goes on in a thread of its own. Its predictions can be taken once: by `parts`, or by `result` or `await`.

    Attributes:
        digests: the SHA-256 of each model's files, by name; the same from the first chunk to the last.
        output_name: what the model calls its single output; empty where there are several, or it has no name.
        dependent: models whose rows are not independent, each with what a prediction depends on besides its row.
    """

    def __init__(self, runner: RestartableRunner) -> None:
        context = runner.run.context
        self.id: str = context.id
        self.digests: dict[str, str] = {model.name: model.digest for model in context.spec.models}
        self.output_name: str = model_pinning.output_name(context.spec.infos)
        self.dependent: dict[str, str] = dict(context.record.dependent)
        self._runner = runner
        self._rows = context.feed.rows
        self._skips = context.spec.skips_rows
        self._started = time.monotonic()
        self._seconds: float | None = None
        self._result: OutputTree | None = None
        self._begun = self._is_looped = False
        self._marks = Marks()
        self._taking, self._is_interrupted = threading.Lock(), False
        self._show_end: Callable[[], None] = lambda: None
        self._thread = threading.Thread(target=runner.work, name=f"celeriac-{self.id}", daemon=True)

    def start(self, on_end: Callable[[], object]) -> None:
        """Begin; `Client.submit` does it, and hears of the end."""
        self._runner.on_end = on_end
        self._thread.start()

    @property
    def context(self) -> JobContext:
        """What its present run is about."""
        return self._runner.run.context

    @property
    def has_part(self) -> bool:
        """Whether the next of `parts` is there, or will never be."""
        return self._runner.part_queue.has_part

    def wake(self) -> None:
        """Have the job look for new rows at once."""
        self._runner.part_queue.wake.set()

    @property
    def rows_out(self) -> int | None:
        """Rows of all parts together; None where nobody knows it yet, since the data set or what is skipped tells."""
        if self._rows is None or (self._skips and self.state is not JobState.DONE):
            return None
        return self._rows - self.context.feed.first_row - (self.context.ledger.failed if self._skips else 0)

    @property
    def begun(self) -> bool:
        """Whether parts were taken, by whomever."""
        return self._begun

    @property
    def whole(self) -> OutputTree | None:
        """What `result` has given; None where it was not asked for."""
        return self._result

    def parts(self) -> Iterator[Part]:
        """The predictions chunk by chunk, as they come: in the data set's order, or with `ordered` False in any.

        A part not taken is kept in memory; when 256 MiB wait, or what `max_waiting_bytes` says, the job sends no more
        chunks. A loop that is left, or interrupted (Ctrl-C), ends nothing: the next one goes on with the next part.

        Of several models, a part has the outputs of those that have not failed by the time it is taken: one that fails
        is in earlier parts and in no later one. What `failed_models` names is then to be dropped from the earlier.

        Rows that a preprocess function drops are in no part; `Part.numbers` tells which rows its arrays have.
        Where rows that fail do not end the job, a part has their records in `failed`; its arrays lack them, or have a
        filler in their place, as `on_error` says.

        Raises:
            RowsFailedError: rows have no prediction, of no model.
            ExecutorDifferedError: parts that were taken are not the model's own outputs.
            JobCancelledError: the job was cancelled.
            NoWorkerError, BrokerError: workers or Redis have gone.
        """
        return iter(self._take_for_loop, None)

    @overload
    def result(self, returns: Literal["arrays"] = "arrays") -> OutputTree: ...

    @overload
    def result(self, returns: Literal["frame"]) -> Any: ...

    def result(self, returns: Returns = "arrays") -> Any:
        """All predictions: an array of shape (rows, ...); a dict of arrays for several outputs or models.

        Args:
            returns: "frame" gives the DataFrame of pandas or polars, or the Table of Arrow, that was submitted, with
                the predictions as more columns; rows that are not in the predictions are not in it either.

        Of a job that began at `first_row`, those from there on. Rows that failed and are skipped are not in it. Of
        several models, those that went through for all rows, by name also where only one is left; `failed_models` has
        the others.

        Whoever interrupts it (Ctrl-C) cancels the job.

        Raises:
            RowsFailedError, JobCancelledError, NoWorkerError, BrokerError: as `parts`.
            ExecutorDifferedError: an executor differed, and the data set can be read only once.
            UsageError: what was submitted is no such frame, or has no column for an output; or `parts` has taken parts.
        """
        form = Form(returns, self.context.feed.frame)
        with self._taking:
            if self._result is None:
                try:
                    self._result = self._gather()
                except KeyboardInterrupt:
                    self._is_interrupted = True  # what was gathered is lost
                    self.cancel()
                    raise
            return form.of(self._result, lambda: self.row_numbers, self.output_name)

    def _gather(self) -> OutputTree:
        if self._is_interrupted:
            raise JobCancelledError(f"job {self.id} was cancelled when its result was interrupted; submit it again")
        if self._is_looped and self.state in (JobState.RUNNING, JobState.DONE):
            raise UsageError(
                f"job {self.id}: its parts have been taken by parts(), and come only once; keep what you take there, "
                "or call result() instead"
            )
        runner = self._runner  # whose thread keeps what is called, and must not keep the job
        arrays, marks = runner.run.gather(), self._marks

        def begin_again() -> None:
            nonlocal arrays
            arrays = runner.run.gather()
            marks.clear()

        if not self._begun:
            runner.allow_restart(begin_again)
        for part in iter(self._take_part, None):
            arrays.add(part)
        return arrays.result()

    async def _awaited(self) -> OutputTree:
        """A task that is cancelled meanwhile cancels the job."""
        result = asyncio.ensure_future(asyncio.to_thread(self.result))
        try:
            # In turns, as a loop in which nothing happens does not see that a notebook's cell is interrupted.
            while not result.done():
                await asyncio.wait([result], timeout=_AWAIT_SECONDS)
            return result.result()
        except asyncio.CancelledError:
            result.cancel()
            self.cancel()
            raise

    def rows(self) -> Iterator[Any]:
        """The outputs of each row by itself, as `parts`; closing it cancels the job."""
        try:
            for part in self.parts():
                yield from part.each()
        finally:
            self.cancel()

    @contextmanager
    def time_limit(self, until: float | None) -> Iterator[None]:
        """Cancel the job when `time.monotonic` is `until`, if it is not None and the block lasts so long.

        Raises:
            RequestTimeoutError: it was cancelled so.
        """
        if until is None:
            yield
            return
        timer = threading.Timer(max(0.0, until - time.monotonic()), self.cancel)
        timer.daemon = True
        timer.start()
        try:
            yield
        except JobCancelledError as error:
            if time.monotonic() < until:
                raise
            raise RequestTimeoutError(f"the time limit was up: {error}") from None
        finally:
            timer.cancel()

    def allow_again(self, on_again: Callable[[], None], first_row: int | None = None) -> None:
        """Let the job begin again though parts of it were taken, should an executor differ; before the first is taken.

        Args:
            on_again: throws away what was taken; called by whoever takes the next part.
            first_row: where the parts then begin; where the job began, if left out.
        """
        marks = self._marks

        def again() -> None:
            marks.clear()
            on_again()

        self._runner.allow_restart(again, first_row)

    def progress(self) -> Progress:
        """How far the job is; `seconds` until its last part was taken."""
        return replace(super().progress(), seconds=self._seconds or time.monotonic() - self._started)

    def show_progress(self) -> Job:
        """Show a bar until the job ends, in a notebook below the cell, in a log as lines; returns the job."""
        # A job that nobody keeps must end, whoever looks at it.
        known = weakref.ref(self)
        self._show_end = show_until_end(
            lambda: job.progress() if (job := known()) else None, self._rows, self.context.feed.first_row
        )
        return self

    def failures(self) -> list[FailureRecord]:
        """Rows that have no prediction, or none of a model that the record names, and why; the first 1,000."""
        return self.context.failures.in_order()

    @property
    def failed_mask(self) -> Array:
        """Which rows have a filler in the place of a prediction: booleans, one for each row of `result()`.

        Of a job whose parts are taken one by one, for the rows of those so far, in the data set's order.
        """
        return self._marks.mask()

    @property
    def row_numbers(self) -> Array:
        """Which rows of the data set those of `result()` are: all, but those that failed or were left out on purpose.

        Of a job whose parts are taken one by one, of those so far, in the data set's order.
        """
        return self._marks.numbers()

    @property
    def more_failures(self) -> int:
        """How many records there were beyond those that `failures` has."""
        return self.context.failures.more

    @property
    def stages(self) -> dict[str, float]:
        """What slots did in the seconds of the job, by stage: "infer", "preprocess", ..., and "wait" for chunks.

        Together they are the job's seconds times its slots, but for what came after each slot's last answer.
        """
        return dict(self.context.channel.measures.stages)

    def cancel(self) -> None:
        """End the job; chunks that no child has begun are never run. Harmless when it has ended."""
        self._runner.cancel(wake=threading.current_thread() is not self._thread)

    def wait(self, timeout_seconds: float | None = None) -> bool:
        """Wait until the job has ended, which needs somebody to take its parts; False when the time was up."""
        if threading.current_thread() is self._thread:
            return False  # garbage that ends a job may be collected there
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def _read(self) -> tuple[JobState, JobRecord]:
        run = self._runner.run
        return run.state, run.context.record_now()

    def _look(self) -> tuple[JobState, JobRecord, int]:
        return *self._read(), len(self._runner.run.slots)

    def _rows_by_time(self) -> tuple[float, Sequence[int]]:
        return self.context.timeline.rows_by_time()

    def _end(self) -> None:
        if self._seconds is None:
            self._seconds = time.monotonic() - self._started
            self._show_end()

    def _take_for_loop(self) -> Part | None:
        part = self._take_part()
        self._is_looped |= part is not None
        return part

    def _take_part(self) -> Part | None:
        """The next one; None after the last."""
        self._begun, part = True, None
        try:
            part = self._runner.part_queue.take()
        except Exception:
            self._end()
            raise
        if part is None:
            self._end()
            self.context.ledger.check()
            return None
        self.context.ledger.written += part.predicted_rows
        self._marks.add(part)
        return part.without(self.context.failures.models)
