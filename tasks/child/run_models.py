"""Runs a chunk's rows through its models, all at once or step by step, and joins what comes out.

on_error "raise"   a model that fails is left out, with a record of the whole chunk
otherwise          what fails is halved until the rows that fail stand alone; no model has outputs for these

Rows that are not finite are counted, or, with on_nonfinite "fail", have failed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
from tasks.recovery.bisect import halved
from tasks.recovery.poison_rows import RowRange
from tasks.telemetry.stopwatch import Stopwatch
from worker_config.errors import ModelError, NonFiniteError, OutOfRangeError, PayloadError, RowCountError

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
        nonfinite: of the rows that have outputs, how many have inputs, and how many outputs, that are not finite.
    """

    outputs: dict[str, Any] = field(default_factory=dict)
    failed: list[FailureRecord] = field(default_factory=list)
    failed_rows: list[FailureRecord] = field(default_factory=list)
    dropped: list[tuple[int, int]] = field(default_factory=list)
    nonfinite: tuple[int, int] = (0, 0)


# What the preprocess functions made of some rows, by name: models that share one have it run once.
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


def run_together(
    message: ChunkMessage,
    models: dict[str, LoadedModel],
    rows: Any,
    steps: Sequence[RowRange],
    before: Before,
    watch: Stopwatch,
) -> ChunkOutputs:
    """Run each model for itself: one that fails at any step is left out."""
    ran = ChunkOutputs()
    count = message.stop - message.start
    joined = {name: OutputAssembler(count) for name in models}
    nonfinite = {name: NotFinite(count) for name in models}
    dropped = np.zeros(count, bool)
    _begin(message, models)
    for step in steps:
        before(step)
        prepared: _Prepared = {}
        for name in list(joined):
            made = _run_model(message, name, models[name], rows, step.start, step.stop, prepared, watch)
            if isinstance(made, ModelOutputs) and len(steps) > 1:
                made = _refused(message, name, made.outputs, step.start, step.stop) or made
            if isinstance(made, ModelOutputs) and made.lost is not None:
                made = _lost_records(message, made, step.start, name)[0]
            if isinstance(made, ModelOutputs):
                try:
                    add_to(joined[name], dropped, message.start, step.start, step.stop, made)
                    nonfinite[name].add(made.nonfinite, step.start - message.start)
                    continue
                except ModelError as error:
                    made = record_of(message, "infer", error, name)
            elif _is_of_a_row(made):
                made = _narrowed(message, name, models[name], rows, made, watch)
            if made.stop - made.start > 1:
                made = msgspec.structs.replace(made, start=message.start, stop=message.stop)
            ran.failed.append(made)
            del joined[name]
    ran.dropped = _runs(dropped, message.start)
    ran.nonfinite = merged(count, [nonfinite[name] for name in joined]).counts(dropped)
    if not dropped.all() or not count:
        ran.outputs = {name: whole.finish() for name, whole in joined.items()}
    return ran


def run_apart(
    message: ChunkMessage,
    models: dict[str, LoadedModel],
    rows: Any,
    steps: Sequence[RowRange],
    before: Before,
    watch: Stopwatch,
    bad: Sequence[FailureRecord] = (),
) -> ChunkOutputs:
    """Run all models, and find the rows on which any of them fails; `bad` are records of rows that are not run.

    Raises:
        InputError: the columns have different numbers of rows.
    """
    count = message.stop - message.start
    check_rows(rows, count)
    joined, nonfinite = OutputAssembler(count), NotFinite(count)
    dropped = np.zeros(count, bool)
    failed = list(bad)
    first_row = steps[0].start if steps else message.start

    def run(start: int, stop: int) -> ModelOutputs | FailureRecord:
        if start == first_row:  # also once more, where it is halved
            _begin(message, models)
        all_made: dict[str, ModelOutputs] = {}
        prepared: _Prepared = {}
        for name, model in models.items():
            made = _run_model(message, name, model, rows, start, stop, prepared, watch)
            if isinstance(made, ModelOutputs):
                made = _refused(message, name, made.outputs, start, stop) or made
            if isinstance(made, FailureRecord):
                return made
            all_made[name] = made
        return together(all_made, stop - start)

    for step in steps:
        before(step)
        pieces = (
            halved(run, step.start, step.stop, failed=_has_failed)
            if have_independent_rows(models)
            else [(step.start, step.stop, run(step.start, step.stop))]
        )
        for start, stop, made in pieces:
            if isinstance(made, FailureRecord):
                failed += _of_each_row(made)
                continue
            try:
                add_to(joined, dropped, message.start, start, stop, made)
                nonfinite.add(made.nonfinite, start - message.start)
                failed += _lost_records(message, made, start)
            except ModelError as error:
                record = record_of(message, "infer", error)
                failed += _of_each_row(msgspec.structs.replace(record, start=start, stop=stop))
    failed.sort(key=lambda record: record.start)
    left_out = np.zeros(count, bool)
    for record in failed:
        left_out[record.start - message.start : record.stop - message.start] = True
    ran = ChunkOutputs(
        failed_rows=failed, dropped=_runs(dropped, message.start), nonfinite=nonfinite.counts(left_out | dropped)
    )
    if joined.rows or not (count or failed):
        ran.outputs = joined.finish()
    return ran


def have_independent_rows(models: Mapping[str, LoadedModel]) -> bool:
    """Whether rows of a chunk may be run without the others; not where the manifest says that they depend on them."""
    return all(model.info.independent_rows for model in models.values())


def _begin(message: ChunkMessage, models: Mapping[str, LoadedModel]) -> None:
    for model in models.values():
        model.begin_chunk(message.start)


def _of_each_row(record: FailureRecord) -> list[FailureRecord]:
    """A record for each of the rows, which fail together; the same one where there is one row, or none."""
    if record.stop - record.start < 2:
        return [record]
    text = f"with all rows {record.start}-{record.stop} of its chunk: {record.text}"[:500]
    return [
        msgspec.structs.replace(record, start=row, stop=row + 1, text=text) for row in range(record.start, record.stop)
    ]


def record_of(message: ChunkMessage, stage: str, error: Exception, model: str = "") -> FailureRecord:
    """What became of all rows of a chunk."""
    return FailureRecord(
        start=message.start,
        stop=message.stop,
        stage=stage,
        type=type(error).__name__,
        text=telling_line(error)[:500],
        model=model if len(message.models) > 1 else "",
    )


def _run_model(
    message: ChunkMessage,
    name: str,
    model: LoadedModel,
    rows: Any,
    start: int,
    stop: int,
    prepared: _Prepared,
    watch: Stopwatch,
) -> ModelOutputs | FailureRecord:
    """What one model makes of rows `[start, stop)` of the data set, or the record of its failure."""
    watch.enter("preprocess")
    try:
        if (start, stop) != (message.start, message.stop):
            rows = rows_between(rows, start - message.start, stop - message.start)
        count, kept, nonfinite = stop - start, None, NotFinite(stop - start)
        for link in model.links:
            watch.enter("preprocess")
            if not count and link.info.inputs:
                rows = blank_rows(link.info.inputs)  # what came before may not know the form of no rows
            first = link is model.links[0] and link.info.preprocess
            rows, stay = (prepared.get(first) if first else None) or link.prepare(rows, count)
            if first:
                prepared[first] = rows, stay
            if stay is not None:
                kept, count = _among(kept, stay), int(stay.sum())
                if not count:
                    return ModelOutputs(None, kept, nonfinite)
            watch.enter("infer")
            if not link.is_step:
                nonfinite.look("inputs", leaves_of(rows), kept, stage="infer", model=link.info.name)
            if link.runner.check is not None:
                link.runner.check.place(start, kept)
            outputs = link.predict(rows)
            is_last = link is model.links[-1]
            if is_last or not link.is_step:  # what a step makes for another link is no output
                stage = "preprocess" if link.is_step else "infer"
                nonfinite.look("outputs", leaves_of(outputs), kept, stage=stage, model=link.info.name)
            watch.enter("postprocess")
            rows = link.finish(outputs, count)
            if is_last and rows is not outputs:
                nonfinite.look("outputs", leaves_of(rows), kept, stage="postprocess", model=link.info.name)
        return ModelOutputs(rows, kept, nonfinite, nonfinite.any_of(kept) if message.on_nonfinite == "fail" else None)
    except redis.RedisError:
        raise
    # MemoryError too: leaving the task, it would end the whole worker.
    except Exception as error:
        return msgspec.structs.replace(record_of(message, watch.stage, error, name), start=start, stop=stop)


def _among(kept: Array | None, stay: Array) -> Array:
    """The mask of those rows of a mask that stay."""
    if kept is None:
        return stay
    among = kept.copy()
    among[kept] = stay
    return among


def _is_of_a_row(failed: FailureRecord) -> bool:
    """Whether the failure is one of single rows, and its text does not say of which."""
    if failed.stage == "preprocess":
        return failed.type != RowCountError.__name__
    return failed.type == OutOfRangeError.__name__


def _narrowed(
    message: ChunkMessage, name: str, model: LoadedModel, rows: Any, failed: FailureRecord, watch: Stopwatch
) -> FailureRecord:
    """The record of the first row that fails by itself, so that a function's error tells which; else the one given."""

    def run(start: int, stop: int) -> ModelOutputs | FailureRecord:
        return _run_model(message, name, model, rows, start, stop, {}, watch)

    middle = (failed.start + failed.stop) // 2
    for start, stop in (failed.start, middle), (middle, failed.stop):
        for _, _, made in halved(run, start, stop, failed=_has_failed) if start < stop else ():
            if isinstance(made, FailureRecord):
                return made
    return failed


def _lost_records(message: ChunkMessage, made: ModelOutputs, start: int, model: str = "") -> list[FailureRecord]:
    """A record for each row that fails since it is not finite; the rows are those from `start` on."""
    records = []
    for row in np.flatnonzero(made.lost) if made.lost is not None else ():
        found = made.nonfinite.first_of(int(row))
        error = NonFiniteError(f"{found.what} holds a NaN or an infinity (on_nonfinite is 'fail')")
        record = record_of(message, found.stage, error, model)
        records.append(msgspec.structs.replace(record, start=start + int(row), stop=start + int(row) + 1))
    return records


def _runs(mask: Array, first: int) -> list[tuple[int, int]]:
    """The rows that a mask has, as runs `[start, stop)` of the data set's rows."""
    bounds = np.flatnonzero(np.diff(mask, prepend=False, append=False)) + first
    return [(int(start), int(stop)) for start, stop in bounds.reshape(-1, 2)]


def _refused(message: ChunkMessage, name: str, outputs: Any, start: int, stop: int) -> FailureRecord | None:
    """The record of outputs that cannot be sent; to look is as good as free but where they are texts."""
    try:
        codec.encode_parts(outputs)
    except PayloadError as error:
        return msgspec.structs.replace(record_of(message, "encode", error, name), start=start, stop=stop)
    return None


def _has_failed(made: ModelOutputs | FailureRecord) -> bool:
    return isinstance(made, FailureRecord)
