"""This module runs a chunk's rows through its models, all at once or step by step, and joins what comes out.

on_error "raise"   a model that fails is left out, with a record of the whole chunk
otherwise          what fails is halved until the rows that fail stand alone; no model has outputs for these
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import redis

from tasks import codec
from tasks.causes import telling_line
from tasks.child import Child
from tasks.halving import halved
from tasks.messages import ChunkMessage, FailureRecord
from tasks.models.loaded import LoadedModel
from tasks.pieces import Joined, check_rows, rows_between
from tasks.shelf import FreshChildError
from tasks.suspects import Step
from worker_config.errors import ModelError, PayloadError

# Called with a step before it runs.
Before = Callable[[Step], None]


@dataclass
class Ran:
    """What came of a chunk.

    Attributes:
        outputs: by model name.
        failed: records of models that gave none.
        failed_rows: records of rows that have none.
    """

    outputs: dict[str, Any] = field(default_factory=dict)
    failed: list[FailureRecord] = field(default_factory=list)
    failed_rows: list[FailureRecord] = field(default_factory=list)


def load(child: Child, message: ChunkMessage) -> tuple[dict[str, LoadedModel], list[FailureRecord]]:
    """The chunk's models, and the records of those that cannot be loaded.

    Raises:
        FreshChildError: there is no room for one.
    """
    models: dict[str, LoadedModel] = {}
    failed = []
    for ref in message.models:
        try:
            models[ref.name] = child.shelf.get(ref, message.models, str(child))
        except (redis.RedisError, FreshChildError):
            raise
        except Exception as error:
            failed.append(record_of(message, "model", error, ref.name))
    return models, failed


def run_together(
    message: ChunkMessage, models: dict[str, LoadedModel], rows: Any, steps: Sequence[Step], before: Before
) -> Ran:
    """Run each model for itself: one that fails at any step is left out."""
    ran = Ran()
    joined = {name: Joined(message.stop - message.start) for name in models}
    for step in steps:
        before(step)
        for name in list(joined):
            result = _run_model(message, name, models[name], rows, step.start, step.stop)
            if not isinstance(result, FailureRecord) and len(steps) > 1:
                result = _refused(message, name, result, step.start, step.stop) or result
            if not isinstance(result, FailureRecord):
                try:
                    joined[name].add(step.start - message.start, step.stop - message.start, result)
                    continue
                except ModelError as error:
                    result = record_of(message, "infer", error, name)
            ran.failed.append(msgspec.structs.replace(result, start=message.start, stop=message.stop))
            del joined[name]
    ran.outputs = {name: whole.finish() for name, whole in joined.items()}
    return ran


def run_apart(
    message: ChunkMessage,
    models: dict[str, LoadedModel],
    rows: Any,
    steps: Sequence[Step],
    before: Before,
    bad: Sequence[FailureRecord] = (),
) -> Ran:
    """Run all models, and find the rows on which any of them fails; `bad` are records of rows that are not run.

    Raises:
        InputError: the columns have different numbers of rows.
    """
    count = message.stop - message.start
    check_rows(rows, count)
    joined = Joined(count)
    failed = list(bad)

    def run(start: int, stop: int) -> dict[str, Any] | FailureRecord:
        outputs: dict[str, Any] = {}
        for name, model in models.items():
            result = _run_model(message, name, model, rows, start, stop)
            if not isinstance(result, FailureRecord):
                result = _refused(message, name, result, start, stop) or result
            if isinstance(result, FailureRecord):
                return result
            outputs[name] = result
        return outputs

    for step in steps:
        before(step)
        for start, stop, result in halved(run, step.start, step.stop, failed=_has_failed):
            if isinstance(result, FailureRecord):
                failed.append(result)
                continue
            try:
                joined.add(start - message.start, stop - message.start, result)
            except ModelError as error:
                record = record_of(message, "infer", error)
                failed += [msgspec.structs.replace(record, start=row, stop=row + 1) for row in range(start, stop)]
    failed.sort(key=lambda record: record.start)
    if not joined.rows and (count or failed):
        return Ran(failed_rows=failed)
    return Ran(joined.finish(), failed_rows=failed)


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


def _run_model(message: ChunkMessage, name: str, model: LoadedModel, rows: Any, start: int, stop: int) -> Any:
    """What one model makes of rows `[start, stop)` of the data set, or the record of its failure."""
    stage = "preprocess"
    try:
        if (start, stop) != (message.start, message.stop):
            rows = rows_between(rows, start - message.start, stop - message.start)
        rows = model.prepare(rows, stop - start)
        stage = "infer"
        outputs = model.predict(rows)
        stage = "postprocess"
        return model.finish(outputs, stop - start)
    except redis.RedisError:
        raise
    # MemoryError too: leaving the task, it would end the whole worker.
    except Exception as error:
        return msgspec.structs.replace(record_of(message, stage, error, name), start=start, stop=stop)


def _refused(message: ChunkMessage, name: str, outputs: Any, start: int, stop: int) -> FailureRecord | None:
    """The record of outputs that cannot be sent; to look is as good as free but where they are texts."""
    try:
        codec.encode_parts(outputs)
    except PayloadError as error:
        return msgspec.structs.replace(record_of(message, "encode", error, name), start=start, stop=stop)
    return None


def _has_failed(result: dict[str, Any] | FailureRecord) -> bool:
    return isinstance(result, FailureRecord)
