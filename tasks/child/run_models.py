"""Runs a chunk's rows through its models, all at once or step by step, and joins what comes out.

on_error "raise"   a model that fails is left out, with a record of a row that fails by itself, or of the whole chunk
otherwise          what fails is halved until the rows that fail stand alone; no model has outputs for these

Rows that are not finite are counted, or, with on_nonfinite "fail", have failed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import redis

from tasks.child.bootstrap import Child
from tasks.child.chunk_rows import check_rows, rows_between
from tasks.child.loaded_model import LoadedModel
from tasks.child.model_cache import FreshChildError
from tasks.child.model_outputs import ModelOutputs, add_to, merged, together
from tasks.models.error_text import telling_line
from tasks.models.nonfinite import NotFinite
from tasks.models.output_assembler import Array, OutputAssembler
from tasks.protocol import codec
from tasks.protocol.codec import leaves_of
from tasks.protocol.messages import ChunkMessage, FailureRecord
from tasks.protocol.signature import blank_rows
from tasks.recovery.bisect import halved, one_failed
from tasks.recovery.poison_rows import RowRange
from tasks.telemetry.stopwatch import Stopwatch
from worker_config.errors import (
    ModelError,
    NonFiniteError,
    OutOfRangeError,
    PayloadError,
    RowCountError,
    TensorFlowNeededError,
)

# In which a row that fails is looked for, where that ends the job: a model may be slow.
NARROWING_SECONDS = 30.0

# Called with a step before it runs.
Before = Callable[[RowRange], None]


@dataclass
class ChunkOutputs:
    """What came of a chunk.

    Attributes:
        outputs: by model name.
        failed: records of models that gave none.
        failed_rows: records of rows that have none.
        dropped: runs of rows `[start, stop)` that a preprocess function left out on purpose.
        not_finite: which rows have inputs, and which outputs, that are not finite.
        left_out: a mask of the rows without outputs; None where that is none.
    """

    outputs: dict[str, Any] = field(default_factory=dict)
    failed: list[FailureRecord] = field(default_factory=list)
    failed_rows: list[FailureRecord] = field(default_factory=list)
    dropped: list[tuple[int, int]] = field(default_factory=list)
    not_finite: NotFinite = field(default_factory=lambda: NotFinite(0))
    left_out: Array | None = None

    @property
    def nonfinite(self) -> tuple[int, int]:
        """Of the rows that have outputs, how many have inputs, and how many outputs, that are not finite."""
        return self.nonfinite_between(0, self.not_finite.rows)

    def nonfinite_between(self, start: int, stop: int) -> tuple[int, int]:
        """The same of some rows, counted from the chunk's first."""
        return self.not_finite.counts(self.left_out, start, stop)


# What the preprocess functions made of some rows, by name and columns: models that share one have it run once.
_Prepared = dict[str, tuple[Any, Array | None]]


def load(child: Child, message: ChunkMessage) -> tuple[dict[str, LoadedModel], list[FailureRecord]]:
    """The chunk's models, and the records of those that cannot be loaded.

    Raises:
        FreshChildError: there is no room for one.
    """
    models: dict[str, LoadedModel] = {}
    failed = []
    for ref in message.models:
        try:
            models[ref.name] = child.model_cache.get(ref, message.models, str(child))
        except (redis.RedisError, FreshChildError):
            raise
        except Exception as error:
            failed.append(record_of(message, "model", error, ref.name))
    return models, failed


def record_of(
    message: ChunkMessage, stage: str, error: Exception, model: str = "", rows: tuple[int, int] | None = None
) -> FailureRecord:
    """What became of rows `[start, stop)` of a chunk, of all where these are not given."""
    start, stop = rows or (message.start, message.stop)
    named = model if len(message.models) > 1 else ""
    return FailureRecord(start, stop, stage, type(error).__name__, telling_line(error)[:500], named)


@dataclass(frozen=True)
class ChunkRun:
    """A chunk's rows and its models.

    Attributes:
        unfed: records of rows that cannot be fed, in whose place others stand.
        small_batches: whether models may run few rows in smaller batches: for a request, which is answered sooner. Not
            for a chunk of a job, as a row's prediction may not depend on its chunk, and last bits do on the batch.
    """

    message: ChunkMessage
    models: dict[str, LoadedModel]
    rows: Any
    watch: Stopwatch
    unfed: Sequence[FailureRecord] = ()
    small_batches: bool = False

    @property
    def has_independent_rows(self) -> bool:
        """Whether rows may be run without the others; not where the manifest says that they depend on them."""
        return all(model.info.independent_rows for model in self.models.values())

    def run(self, steps: Sequence[RowRange], before: Before | None, bad: Sequence[FailureRecord] = ()) -> ChunkOutputs:
        """Run all models on all steps, as the job wants errors; `bad` are records of rows that are not run.

        Raises:
            InputError: the columns have different numbers of rows.
        """
        if self.message.on_error == "raise":
            return ChunkOutputs(failed=[*self.unfed[:1]]) if self.unfed else self._together(steps, before)
        count = self.message.stop - self.message.start
        if self.unfed and not self.has_independent_rows:  # without it, the others would have other predictions
            whole = msgspec.structs.replace(self.unfed[0], start=self.message.start, stop=self.message.stop)
            return ChunkOutputs(failed_rows=_of_each_row(whole))
        return (
            ChunkOutputs(failed_rows=[*self.unfed]) if len(self.unfed) == count > 0 else self._apart(steps, before, bad)
        )

    def _together(self, steps: Sequence[RowRange], before: Before | None) -> ChunkOutputs:
        """Run each model for itself: one that fails at any step is left out."""
        ran, first, count = ChunkOutputs(), self.message.start, self.message.stop - self.message.start
        joined = {name: OutputAssembler(count) for name in self.models}
        nonfinite = {name: NotFinite(count) for name in self.models}
        dropped = np.zeros(count, bool)
        self._begin()
        for step in steps:
            if before:
                before(step)
            prepared: _Prepared = {}
            for name in list(joined):
                made = self._run_model(name, step.start, step.stop, prepared, must_be_sendable=len(steps) > 1)
                if isinstance(made, ModelOutputs) and made.lost is not None:
                    made = self._lost_records(made, step.start, name)[0]
                if isinstance(made, ModelOutputs):
                    try:
                        add_to(joined[name], dropped, first, step.start, step.stop, made)
                        nonfinite[name].add(made.nonfinite, step.start - first)
                        continue
                    except ModelError as error:
                        made = record_of(self.message, "infer", error, name)
                elif made.stop - made.start > 1:
                    made = self._narrowed(name, made)
                if made.stop - made.start > 1:
                    made = msgspec.structs.replace(made, start=first, stop=self.message.stop)
                ran.failed.append(made)
                del joined[name]
        ran.dropped = _runs(dropped, first)
        ran.not_finite, ran.left_out = merged(count, [nonfinite[name] for name in joined]), dropped
        if not dropped.all() or not count:
            ran.outputs = {name: whole.finish() for name, whole in joined.items()}
        return ran

    def _apart(self, steps: Sequence[RowRange], before: Before | None, bad: Sequence[FailureRecord]) -> ChunkOutputs:
        """Run all models, and find the rows on which any of them fails."""
        first, count = self.message.start, self.message.stop - self.message.start
        check_rows(self.rows, count)
        joined, nonfinite = OutputAssembler(count), NotFinite(count)
        dropped = np.zeros(count, bool)
        failed = list(bad)
        first_row = steps[0].start if steps else first

        def run(start: int, stop: int) -> ModelOutputs | FailureRecord:
            if start == first_row:  # also once more, where it is halved
                self._begin()
            all_made: dict[str, ModelOutputs] = {}
            prepared: _Prepared = {}
            for name in self.models:
                made = self._run_model(name, start, stop, prepared)
                if isinstance(made, FailureRecord):
                    return made
                all_made[name] = made
            return together(all_made, stop - start)

        for step in steps:
            if before:
                before(step)
            pieces = (
                halved(run, step.start, step.stop, failed=_has_failed)
                if self.has_independent_rows
                else [(step.start, step.stop, run(step.start, step.stop))]
            )
            for start, stop, made in pieces:
                if isinstance(made, FailureRecord):
                    failed += _of_each_row(made)
                    continue
                try:
                    add_to(joined, dropped, first, start, stop, made)
                    nonfinite.add(made.nonfinite, start - first)
                    failed += self._lost_records(made, start)
                except ModelError as error:
                    failed += _of_each_row(record_of(self.message, "infer", error, rows=(start, stop)))
        lost = {record.start for record in self.unfed}
        if lost:
            joined.forget([row - first for row in lost])
            failed = [*self.unfed, *(record for record in failed if record.start not in lost)]
            dropped[[row - first for row in lost]] = False
        failed.sort(key=lambda record: record.start)
        left_out = dropped.copy()
        for record in failed:
            left_out[record.start - first : record.stop - first] = True
        ran = ChunkOutputs(failed_rows=failed, dropped=_runs(dropped, first), not_finite=nonfinite, left_out=left_out)
        if joined.rows or not (count or failed):
            ran.outputs = joined.finish()
        return ran

    def _begin(self) -> None:
        for model in self.models.values():
            model.begin_chunk(self.message.start)

    def _run_model(
        self, name: str, start: int, stop: int, prepared: _Prepared, *, must_be_sendable: bool = True
    ) -> ModelOutputs | FailureRecord:
        """What one model makes of rows `[start, stop)` of the data set, or the record of its failure."""
        try:
            made = self._model_outputs(self.models[name], start, stop, prepared)
        except redis.RedisError:
            raise
        # MemoryError too: leaving the task, it would end the whole worker.
        except Exception as error:
            return record_of(self.message, self.watch.stage, error, name, (start, stop))
        try:
            if must_be_sendable:  # to look is as good as free but where they are texts
                codec.encode_parts(made.outputs)
        except PayloadError as error:
            return record_of(self.message, "encode", error, name, (start, stop))
        return made

    def _model_outputs(self, model: LoadedModel, start: int, stop: int, prepared: _Prepared) -> ModelOutputs:
        rows, first = self.rows, self.message.start
        self.watch.enter("preprocess")
        if (start, stop) != (first, self.message.stop):
            rows = rows_between(rows, start - first, stop - first)
        count, kept, nonfinite = stop - start, None, NotFinite(stop - start)
        for link in model.links:
            self.watch.enter("preprocess")
            if not count and link.info.inputs:
                rows = blank_rows(link.info.inputs)  # what came before may not know the form of no rows
            shared = link is model.links[0] and link.info.preprocess and f"{link.info.preprocess} {link.info.columns}"
            rows, stay = (prepared.get(shared) if shared else None) or link.prepare(rows, count)
            if shared:
                prepared[shared] = rows, stay
            if stay is not None:
                kept, count = _among(kept, stay), int(stay.sum())
                if not count:
                    return ModelOutputs(None, kept, nonfinite)
            self.watch.enter("infer")
            if not link.is_step:
                nonfinite.look("inputs", leaves_of(rows), kept, stage="infer", model=link.info.name)
            if link.runner.check is not None:
                link.runner.check.place(start, kept)
            outputs = link.predict(rows, small_batches=self.small_batches)
            is_last = link is model.links[-1]
            if is_last or not link.is_step:  # what a step makes for another link is no output
                stage = "preprocess" if link.is_step else "infer"
                nonfinite.look("outputs", leaves_of(outputs), kept, stage=stage, model=link.info.name)
            self.watch.enter("postprocess")
            rows = link.finish(outputs, count)
            if is_last and rows is not outputs:
                nonfinite.look("outputs", leaves_of(rows), kept, stage="postprocess", model=link.info.name)
        lost = nonfinite.any_of(kept) if self.message.on_nonfinite == "fail" else None
        return ModelOutputs(rows, kept, nonfinite, lost)

    def _narrowed(self, name: str, failed: FailureRecord) -> FailureRecord:
        """The record of a row that fails by itself; else, or where the model fails with any row, this one."""
        is_of_model = failed.stage in ("infer", "postprocess") and self.models[name].info.independent_rows
        is_of_row = _is_of_a_row(failed)
        if failed.type == RowCountError.__name__ or not (is_of_model or is_of_row):
            return failed

        def run(start: int, stop: int) -> FailureRecord | None:
            made = self._run_model(name, start, stop, {}, must_be_sendable=False)
            return made if isinstance(made, FailureRecord) else None

        one = one_failed(run, failed.start, failed.stop, seconds=NARROWING_SECONDS)
        is_first = one is not None and one.start == failed.start
        is_any = is_first and not is_of_row and run(failed.stop - 1, failed.stop)
        return failed if one is None or is_any else one

    def _lost_records(self, made: ModelOutputs, start: int, model: str = "") -> list[FailureRecord]:
        """A record for each row that fails since it is not finite; the rows are those from `start` on."""
        records = []
        for row in map(int, np.flatnonzero(made.lost) if made.lost is not None else ()):
            found = made.nonfinite.first_of(row)
            error = NonFiniteError(f"{found.what} holds a NaN or an infinity (on_nonfinite is 'fail')")
            records.append(record_of(self.message, found.stage, error, model, (start + row, start + row + 1)))
        return records


def _of_each_row(record: FailureRecord) -> list[FailureRecord]:
    """A record for each of the rows, which fail together; the same one where there is one row, or none."""
    if record.stop - record.start < 2:
        return [record]
    text = f"with all rows {record.start}-{record.stop} of its chunk: {record.text}"[:500]
    return [
        msgspec.structs.replace(record, start=row, stop=row + 1, text=text) for row in range(record.start, record.stop)
    ]


def _among(kept: Array | None, stay: Array) -> Array:
    """The mask of those rows of a mask that stay."""
    if kept is None:
        return stay
    among = kept.copy()
    among[kept] = stay
    return among


def _is_of_a_row(failed: FailureRecord) -> bool:
    """Whether it is one of single rows, though all may have it."""
    return failed.stage == "preprocess" or failed.type in (OutOfRangeError.__name__, TensorFlowNeededError.__name__)


def _runs(mask: Array, first: int) -> list[tuple[int, int]]:
    """The rows that a mask has, as runs `[start, stop)` of the data set's rows."""
    bounds = np.flatnonzero(np.diff(mask, prepend=False, append=False)) + first
    return [(int(start), int(stop)) for start, stop in bounds.reshape(-1, 2)]


def _has_failed(made: ModelOutputs | FailureRecord) -> bool:
    return isinstance(made, FailureRecord)
