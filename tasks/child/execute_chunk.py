"""One chunk in a child: asked for, fetched, run (`tasks/child/run_models.py`), encoded, answered.

A failure is an answer too: the stage, the error's type and text, never a pickled exception. What is delivered again
runs in steps that are noted before, so that a row that kills is found (`tasks/recovery/poison_rows.py`).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

import msgspec
import redis
from celery.exceptions import Reject

from tasks.child import executor_differences
from tasks.child.bootstrap import Child
from tasks.child.chunk_rows import fed_rows, with_places, with_values
from tasks.child.delivery import Delivery, NotHeldError, ask
from tasks.child.model_cache import FreshChildError
from tasks.child.put_outputs import NOTHING_PUT, carry_out, of_failed_rows, put_outputs
from tasks.child.run_models import Before, ChunkOutputs, ChunkRun, load, record_of
from tasks.models.batches import BatchCounts
from tasks.protocol.chunk_args import chunk_id, from_args
from tasks.protocol.messages import (
    Answer,
    ChunkMessage,
    Differed,
    Failure,
    FailureRecord,
    InlineRef,
    MergeReply,
    Outputs,
)
from tasks.recovery.delivery_log import DeliveryHistory, DeliveryLog
from tasks.recovery.poison_rows import ChildDeath, RowRange, is_hopeless, steps
from tasks.telemetry.counters import Counts
from tasks.transport.connection import PASSING
from tasks.transport.publish_answer import ASK_AGAIN, VoidAnswerError, push_answer, refuse
from tasks.transport.resend_detached import send_once_more, send_void
from worker_config.errors import ModelError, NoSpaceError, OutputError, SealError, VersionError
from worker_config.retry_policy import LEAST_BACKOFF_SECONDS


def run_message(child: Child | None, args: Any, queue: str, tag: str, headers: Mapping[str, str] | None = None) -> str:
    """Run the chunk that a Celery message brought; return a short text for Celery's log.

    `child` is this process, None where it is none; by the `tag` Celery acknowledges the message, whose `headers` may
    name the trace that the chunk belongs to.

    Raises:
        ModelError: this process holds no models.
        MessageError, SealError: the message is not of our form, was damaged, or is not signed as it should be.
        Reject: Redis is out of reach, or is not the one that the message is from, or this child has no room for a
            model; the message goes back to the queue.
    """
    if child is None:
        raise ModelError("this process holds no models; chunks run in the children of `celery -A tasks worker` alone")
    child.stopwatch.begin()
    child.no_requests_in = ""
    begun_at = time.time()
    try:
        try:
            message = from_args(args, queue, child.payloads.sealer)
        except (VersionError, SealError) as error:
            refuse(
                child.client, chunk_id(args), error, str(child), child.payloads.job_ttl_seconds, child.payloads.sealer
            )
            raise
        return _run_message(child, message, queue, tag, begun_at)
    finally:
        child.stopwatch.enter("wait")
        if child.trace:
            child.trace.close(headers, sys.exception())


def _run_message(child: Child, message: ChunkMessage, queue: str, tag: str, begun_at: float) -> str:
    try:
        delivery = ask(child, message, tag)
        if not delivery.count:
            return f"dropped {message}: the job is over"
        if child.trace:
            child.trace.run(message, delivery.count)
        answer = _answer(child, message, queue, delivery, begun_at)
        batches = child.model_cache.take_batch_counts()
        child.counters.answered(child.slot, _done(message, answer, delivery.count, batches))
    except PASSING as error:
        raise Reject(f"Redis is out of reach, full, or takes no writes: {error}", requeue=True) from None
    except NotHeldError:
        child.client.connection_pool.disconnect()  # to ask anew which server it is
        time.sleep(LEAST_BACKOFF_SECONDS)
        raise Reject(f"{message} is not held by the Redis that {child} is connected to", requeue=True) from None
    except FreshChildError:
        why = "has no room for its models, or their files have changed"
        raise Reject(f"a fresh child takes {message}: {child} {why}", requeue=True) from None
    except MemoryError as error:
        # In the reply or the answer, beyond what run_chunk catches.
        answer = _failure(child, message, record_of(message, "memory", error))
        push_answer(child.client, answer, child.payloads.job_ttl_seconds, child.payloads.sealer)
    if child.trace:
        child.trace.answer = answer
    child.model_cache.check_size()
    if isinstance(answer, Failure):
        return f"{message}: {answer.record}"
    texts = [f"{answer.seconds:.3f} s", *map(str, answer.failed)]
    if answer.failed_rows:
        texts.append(f"{len(answer.failed_rows)} rows failed, the first: {answer.failed_rows[0]}")
    return f"{message}: {'; '.join(texts)}"


def _answer(child: Child, message: ChunkMessage, queue: str, delivery: Delivery, begun_at: float) -> Answer:
    """Run the chunk and give its answer to the job; once more where an executor of its models has become unfit."""
    own_graph = delivery.own_graph
    while True:
        answer = run_chunk(child, message, delivery.payload, delivery.count, own_graph)
        is_lost = isinstance(answer, Failure) and answer.record.stage == "worker"
        if is_lost and send_once_more(child.client, message, queue, child.payloads.sealer):
            return answer
        child.stopwatch.enter("answer")  # first: what is left of the stage before must not count for the next chunk
        answer = msgspec.structs.replace(answer, begun_at=begun_at, stages=child.stopwatch.lap())
        try:
            pushed = push_answer(
                child.client, answer, child.payloads.job_ttl_seconds, child.payloads.sealer, delivery.tag, queue
            )
        except VoidAnswerError:
            if isinstance(answer, Outputs):
                child.payloads.forget(message, answer.ref)
            own_graph = [*own_graph, *answer.by_executor]
            continue
        child.no_requests_in = "" if pushed.requests_wait else queue
        if not pushed.is_taken and isinstance(answer, Outputs):
            child.payloads.forget(message, answer.ref, is_sure=pushed.is_sure)
        if not pushed.is_held:
            raise NotHeldError
        if answer.differed:
            executor_differences.note(child.client, child.model_cache.folder, answer.job, answer.differed)
            send_void(child.client, answer.job, child.payloads.sealer)
        return answer


def run_chunk(
    child: Child,
    message: ChunkMessage,
    payload: bytes | None,
    deliveries: int = 1,
    own_graph: Collection[str] = (),
) -> Answer:
    """The chunk's outputs, or a record of why there are none; never raises an Exception but Redis's own.

    The models that `own_graph` names are run by their own graphs.

    Raises:
        FreshChildError: there is no room for a model, or its files have changed.
        RedisError: Redis is out of reach.
    """
    by_executor: list[str] = []
    differed: list[Differed] = []
    started = time.monotonic()
    watch, log = child.stopwatch, DeliveryLog(child.client, child.payloads.sealer, message)
    watch.enter("fetch")
    try:
        history = log.read() if deliveries > 1 else None
        fetched, kept = child.payloads.fetch(message, payload, watch)
        if isinstance(message.reply, MergeReply):
            watch.enter("store")
            return _merged(child, message, message.reply, fetched, deliveries)
        rows, unfed = fed_rows(message, fetched)
        watch.enter("model")
        models, unloaded = load(child, message)
        watch.enter("infer")
        executor_differences.begin(models, message, own_graph)
        ran = ChunkOutputs()
        if models:
            run = ChunkRun(message, models, rows, watch, unfed)
            todo = [RowRange(message.start, message.stop, message.stop)]
            before: Before | None = None  # nobody needs to know how far the first delivery is
            if history is not None:
                todo = _steps(log, run, history)
                if record := _given_up(child, message, log, history):
                    return _failure(child, message, record)
                before = partial(log.record_intent, child.worker)
            bad = history.bad if history else []
            ran = run.run(todo, before, bad)
            differed = executor_differences.differed(models, message)
            if differed:
                watch.enter("infer")
                ran = run.run(todo, before, bad)
            child.model_cache.check_files(models.values())
        by_executor = executor_differences.by_executor(models)
        ran.failed[:0] = unloaded
        watch.enter("encode")
        ran.failed_rows = with_places(with_values(ran.failed_rows, rows, message.start), message.ref)
        put = put_outputs(child.payloads, message, ran, watch, kept, is_proven=not by_executor)
        ran.failed = with_places(with_values(ran.failed, rows, message.start), message.ref)
        if put is None and (not ran.dropped or len(ran.failed) == len(message.models)):
            answer: Answer = _nothing(child, message, ran)
        else:
            ref, checksum = put or NOTHING_PUT
            answer = Outputs(
                job=message.job,
                index=message.index,
                start=message.start,
                stop=message.stop,
                slot=str(child),
                ref=ref,
                seconds=time.monotonic() - started,
                failed=ran.failed,
                failed_rows=ran.failed_rows,
                dropped=ran.dropped,
                nonfinite_inputs=ran.nonfinite[0],
                nonfinite_outputs=ran.nonfinite[1],
                models=message.models,
                checksum=checksum,
            )
    except (redis.RedisError, FreshChildError):
        raise
    # MemoryError too: leaving the task, it would end the whole worker.
    except Exception as error:
        # People need not tell the stages apart so finely.
        stage = {"store": "encode", "decode": "fetch"}.get(watch.stage, watch.stage)
        if isinstance(error, OutputError) or (isinstance(message.reply, MergeReply) and stage == "encode"):
            stage = "full" if isinstance(error, NoSpaceError) else "write"
        answer = _failure(child, message, record_of(message, stage, error))
    if isinstance(answer, Failure):
        answer = of_failed_rows(message, answer)
    return msgspec.structs.replace(answer, by_executor=by_executor, differed=differed)


def _merged(child: Child, message: ChunkMessage, reply: MergeReply, order: Any, deliveries: int) -> Outputs:
    """The answer of a chunk that makes one file of many."""
    started = time.monotonic()
    ref = carry_out(message, reply, order, child.payloads.places.output_roots, deliveries)
    return Outputs(
        job=message.job,
        index=message.index,
        start=message.start,
        stop=message.stop,
        slot=str(child),
        seconds=time.monotonic() - started,
        ref=ref or InlineRef(b""),
        models=message.models,
    )


def _failure(
    child: Child,
    message: ChunkMessage,
    record: FailureRecord,
    each: list[FailureRecord] | None = None,
    rows: list[FailureRecord] | None = None,
) -> Failure:
    return Failure(message.job, message.index, str(child), record, each or [], rows or [])


def _done(message: ChunkMessage, answer: Answer, deliveries: int, batches: BatchCounts) -> Counts:
    """What the chunk adds to the child's counts; its rows have not failed where another delivery is asked for."""
    failed = answer.failed_rows
    if isinstance(answer, Failure) and not failed and answer.record.stage not in ASK_AGAIN:
        failed = [answer.record]
    return Counts(
        chunks=1,
        rows=0 if isinstance(message.reply, MergeReply) else message.stop - message.start,
        rows_failed=sum(record.stop - record.start for record in failed),
        rows_nonfinite_inputs=answer.nonfinite_inputs if isinstance(answer, Outputs) else 0,
        rows_nonfinite_outputs=answer.nonfinite_outputs if isinstance(answer, Outputs) else 0,
        chunks_again=int(deliveries > 1),
        **batches,
    )


def _steps(log: DeliveryLog, run: ChunkRun, history: DeliveryHistory) -> list[RowRange]:
    """The rows to run, in which steps, after what earlier deliveries have come to; `history` has those never run."""
    message = run.message
    batch_rows = max(model.info.batch_rows for model in run.models.values())
    poison_rows, condemned = history.judge(batch_rows)
    if condemned:
        history.bad.append(condemned)
        log.exclude_rows(history.bad)
    history.bad = with_values(history.bad, run.rows, message.start)
    if not run.has_independent_rows:
        # Each would have another prediction without the others.
        batch_rows, poison_rows = max(1, message.stop - message.start), None
    left_out = {record.start for record in (*history.bad, *run.unfed)}
    return steps(message.start, message.stop, batch_rows, poison_rows, left_out)


def _given_up(child: Child, message: ChunkMessage, log: DeliveryLog, history: DeliveryHistory) -> FailureRecord | None:
    """The record of a chunk that is not run again: for a row that kills, or since nobody finds it."""
    if history.bad and message.on_error == "raise":
        return history.bad[0]
    if message.on_error != "raise" and log.yields(child.worker, history):
        return FailureRecord(message.start, message.stop, "worker", "Yielded", "another delivery is at work")
    if not is_hopeless(history.deaths, len(history.bad)):
        return None
    cause = history.death or ChildDeath("", 0, "Killed", "the cause is not known")
    text = f"{history.deaths} children died with these rows, of which none was found that kills; at last: {cause.text}"
    return FailureRecord(message.start, message.stop, "killed", cause.type or "Killed", text[:500])


def _nothing(child: Child, message: ChunkMessage, ran: ChunkOutputs) -> Failure:
    """The failure of a chunk through which nothing went."""
    each = ran.failed if len(message.models) > 1 else []
    if not ran.failed_rows:
        return _failure(child, message, _of_all(ran.failed), each)
    first = ran.failed_rows[0]
    rows = message.stop - message.start
    text = f"all {rows} rows failed; {first.rows}: {first.text}"[:500] if rows > 1 else first.text
    # "worker" would ask for another delivery.
    stage = "killed" if first.stage == "worker" else first.stage
    whole = FailureRecord(message.start, message.stop, stage, first.type, text)
    return _failure(child, message, whole, each, ran.failed_rows if rows else [])


def _of_all(failed: list[FailureRecord]) -> FailureRecord:
    """One record for a chunk through which no model went."""
    first = failed[0]
    if not first.model:
        return first
    text = first.text if len(failed) == 1 else f"all models failed; {first.model}: {first.text}"
    return msgspec.structs.replace(first, model="", text=text[:500])
