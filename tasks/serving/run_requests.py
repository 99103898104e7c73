"""Runs requests that were taken together as one batch, and gives each caller its own answer.

requests --decode--> rows, one after the other --ChunkRun--> outputs, records of rows --cut--> an answer each

A row that fails is found, as in any chunk, so that it harms its own caller alone. Where anything else is wrong, with
the model or with what was taken, the answer is a `Failure`: its caller submits a job, which can tell.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import redis

from tasks.child import executor_differences
from tasks.child.bootstrap import Child
from tasks.child.chunk_rows import with_values
from tasks.child.run_models import ChunkOutputs, ChunkRun, load
from tasks.datasets.rebatcher import Rebatcher
from tasks.protocol import codec
from tasks.protocol.codec import leaves_of, tree_of
from tasks.protocol.messages import (
    WRITTEN_VERSION,
    Answer,
    ChunkMessage,
    Failure,
    FailureRecord,
    InlineRef,
    Outputs,
)
from tasks.protocol.requests import MAX_REQUEST_BYTES, Head, Request, from_element, head_of
from tasks.recovery.poison_rows import RowRange
from tasks.telemetry.counters import Counts
from tasks.transport.request_queue import Taken
from worker_config.errors import CeleriacError, MessageError, PayloadError, RequestTimeoutError

# Stands for a job where one is told of: in logs, and to whatever remembers the rows of jobs.
OF_REQUESTS = "0" * 12


@dataclass(frozen=True)
class _Opened:
    """A request whose rows are `[start, stop)` of the batch."""

    head: Head
    request: Request
    start: int
    stop: int


def run_requests(child: Child, taken: Taken, number: int) -> dict[str, list[Answer]]:
    """Answers by caller to all that was taken; `number` counts the batches of this child.

    Raises:
        RedisError: Redis is out of reach.
    """
    answers: dict[str, list[Answer]] = defaultdict(list)
    opened: list[_Opened] = []
    columns: list[Any] = []
    late = RequestTimeoutError("its time was up before a child was free")
    for element, error in [*((one, None) for one in taken.run), *((one, late) for one in taken.late)]:
        try:
            head, request = from_element(element, child.payloads.sealer)
            if error is not None:
                raise error
            if opened and head.group != opened[0].head.group:  # they have no array in common, nor perhaps a model
                raise MessageError("it was taken with requests of another form")
            columns.append(codec.decode(request.payload, borrow=True))
            start = opened[-1].stop if opened else 0
            opened.append(_Opened(head, request, start, start + request.rows))
        except CeleriacError as wrong:
            _refuse(answers, child, [element], wrong)
    if not opened:
        return answers
    try:
        ran, seconds = _run(child, opened, _joined(columns), number)
        for one in opened:
            answers[one.head.caller].append(_answer(child, one, ran, seconds))
    except redis.RedisError:
        raise
    # MemoryError too, and a model that there is no room for.
    except Exception as error:
        _refuse(answers, child, taken.run, error)
    finally:
        child.stopwatch.enter("wait")
        child.stopwatch.lap()  # it is no chunk's
    return answers


def lost(child: Child, elements: Iterable[bytes]) -> dict[str, list[Answer]]:
    """Answers to what the child before this one died with."""
    answers: dict[str, list[Answer]] = defaultdict(list)
    _refuse(answers, child, elements, MessageError("the child that ran it died"), "worker")
    return answers


def _refuse(
    answers: dict[str, list[Answer]], child: Child, elements: Iterable[bytes], error: Exception, stage: str = "fetch"
) -> None:
    for element in elements:
        try:
            head = head_of(element)
        except MessageError:
            continue  # nobody knows whose it is
        record = FailureRecord(0, head.rows, stage, type(error).__name__, str(error)[:500])
        answers[head.caller].append(Failure(head.id, 0, str(child), record))


def _run(child: Child, opened: Sequence[_Opened], rows: Any, number: int) -> tuple[ChunkOutputs, float]:
    """What came of all rows, and the seconds that it took.

    Raises:
        FreshChildError: there is no room for the model, or its files have changed.
        ModelError: it cannot be loaded.
    """
    began, first = time.monotonic(), opened[0].request
    message = ChunkMessage(
        version=WRITTEN_VERSION,
        job=OF_REQUESTS,
        index=number,
        start=0,
        stop=opened[-1].stop,
        chunks=None,
        models=[first.model],
        ref=InlineRef(b""),
        on_error="fill",
        on_nonfinite=first.on_nonfinite,
    )
    child.stopwatch.enter("model")
    models, unloaded = load(child, message)
    if unloaded:
        raise MessageError(str(unloaded[0]))
    executor_differences.begin(models, message, ())
    run = ChunkRun(message, models, rows, child.stopwatch, small_batches=True)
    steps = [RowRange(0, message.stop, message.stop)]
    ran = run.run(steps, None)
    if differed := executor_differences.differed(models, message):
        # Those that were answered before are with their callers; `celeriac models` tells, as of any job that has ended.
        ran = run.run(steps, None)
        executor_differences.note(child.client, child.model_cache.folder, OF_REQUESTS, differed)
    child.model_cache.check_files(models.values())
    child.stopwatch.enter("encode")
    ran.failed_rows = with_values(ran.failed_rows, rows, 0)
    nonfinite = ran.nonfinite
    child.counters.answered(
        child.slot,
        Counts(
            requests=len(opened),
            rows=message.stop,
            rows_failed=sum(record.stop - record.start for record in ran.failed_rows),
            rows_nonfinite_inputs=nonfinite[0],
            rows_nonfinite_outputs=nonfinite[1],
            **child.model_cache.take_batch_counts(),
        ),
    )
    return ran, time.monotonic() - began


def _joined(rows: Sequence[Any]) -> Any:
    """Rows of the same form, one after the other."""
    waiting = Rebatcher()
    for one in rows:
        waiting.add(one)
    return waiting.take(waiting.rows)[0]


def _answer(child: Child, one: _Opened, ran: ChunkOutputs, seconds: float) -> Answer:
    """A caller's part of what came of the batch."""
    rows, start, stop = one.request.rows, one.start, one.stop
    failed = [_moved(record, start, rows) for record in ran.failed_rows if start <= record.start < stop]
    dropped = [(max(a, start) - start, min(b, stop) - start) for a, b in ran.dropped if a < stop and b > start]
    payload = b""
    if ran.outputs and sum(record.stop - record.start for record in failed) < rows:
        (outputs,) = ran.outputs.values()
        own = tree_of({key: array[start:stop] for key, array in leaves_of(outputs)})
        payload = b"".join(codec.encode_parts(own))
        if len(payload) > MAX_REQUEST_BYTES:
            raise PayloadError(f"its outputs are {len(payload)} bytes, more than travel by themselves")
    inputs, outputs_beyond = ran.nonfinite_between(start, stop)
    return Outputs(
        job=one.head.id,
        index=0,
        start=0,
        stop=rows,
        slot=str(child),
        ref=InlineRef(payload),
        seconds=seconds,
        failed_rows=failed,
        dropped=dropped,
        nonfinite_inputs=inputs,
        nonfinite_outputs=outputs_beyond,
        models=[one.request.model],
    )


def _moved(record: FailureRecord, start: int, rows: int) -> FailureRecord:
    """The record as the caller counts rows."""
    return msgspec.structs.replace(record, start=record.start - start, stop=min(record.stop - start, rows))
