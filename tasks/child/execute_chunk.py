"""One chunk in a child: asked for, fetched, run (`tasks/child/run_models.py`), encoded, answered.

A failure is an answer too: the stage, the error's type and text, never a pickled exception. What is delivered again
runs in steps that are noted before, so that a row that kills is found (`tasks/recovery/poison_rows.py`).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import msgspec
import redis
from celery.exceptions import Reject

from tasks.child import online_checks, report_differed
from tasks.child.bootstrap import Child, current_child
from tasks.child.chunk_payload import checksum, fetch, forget, store
from tasks.child.chunk_rows import with_values
from tasks.child.loaded_model import LoadedModel
from tasks.child.model_cache import FreshChildError
from tasks.child.run_models import Before, ChunkOutputs, have_independent_rows, load, record_of, run_apart, run_together
from tasks.models.batches import BatchCounts
from tasks.protocol import codec, job_fields, keys
from tasks.protocol.messages import (
    Answer,
    ChunkMessage,
    Differed,
    Failure,
    FailureRecord,
    HashRef,
    Outputs,
    RedisRef,
    from_plain,
)
from tasks.recovery import delivery_log
from tasks.recovery.poison_rows import ChildDeath, RowRange, is_hopeless, steps
from tasks.telemetry.counters import Counts
from tasks.telemetry.stopwatch import Stopwatch
from tasks.transport import spool
from tasks.transport.publish_answer import ASK_AGAIN, VoidAnswerError, push_answer
from tasks.transport.resend_detached import send_void
from worker_config.errors import PayloadError


def run_message(plain: object, headers: Mapping[str, str] | None = None) -> str:
    """Run the chunk that a Celery message brought; return a short text for Celery's log.

    Its headers may name the trace that the chunk belongs to.

    Raises:
        MessageError: the message is not of our form.
        Reject: Redis is out of reach, or this child has no room for a model; the message goes back to the queue.
    """
    child = current_child()
    child.stopwatch.enter("fetch")
    begun_at = time.time()
    try:
        return _run_message(child, from_plain(plain, ChunkMessage), begun_at)
    finally:
        child.stopwatch.enter("wait")
        if child.trace:
            child.trace.close(headers, sys.exception())


def _run_message(child: Child, message: ChunkMessage, begun_at: float) -> str:
    try:
        deliveries, payload, own_graph = ask(child, message)
        if not deliveries:
            return f"dropped {message}: the job is over"
        if child.trace:
            child.trace.run(message, deliveries)
        answer = _answer(child, message, payload, deliveries, own_graph, begun_at)
        child.counters.answered(child.slot, _done(message, answer, deliveries, child.model_cache.take_batch_counts()))
    except (redis.ConnectionError, redis.TimeoutError, redis.exceptions.OutOfMemoryError) as error:
        raise Reject(f"Redis is out of reach, or full: {error}", requeue=True) from None
    except FreshChildError:
        raise Reject(f"{child} cannot hold the models of {message}; a fresh child takes it", requeue=True) from None
    except MemoryError as error:
        # In the reply or the answer, beyond what run_chunk catches.
        answer = Failure(message.job, message.index, str(child), record_of(message, "memory", error))
        push_answer(child.client, answer, child.job_ttl_seconds)
    if child.trace:
        child.trace.answer = answer
    child.model_cache.check_size()
    if isinstance(answer, Failure):
        return f"{message}: {answer.record}"
    texts = [f"{answer.seconds:.3f} s", *map(str, answer.failed)]
    if answer.failed_rows:
        texts.append(f"{len(answer.failed_rows)} rows failed, the first: {answer.failed_rows[0]}")
    return f"{message}: {'; '.join(texts)}"


def _answer(
    child: Child,
    message: ChunkMessage,
    payload: bytes | None,
    deliveries: int,
    own_graph: list[str],
    begun_at: float,
) -> Answer:
    """Run the chunk and give its answer to the job; once more where an executor of its models has become unfit."""
    while True:
        answer = run_chunk(child, message, payload, deliveries, own_graph)
        child.stopwatch.enter("answer")  # first: what is left of the stage before must not count for the next chunk
        answer = msgspec.structs.replace(answer, begun_at=begun_at, stages=child.stopwatch.take())
        try:
            is_taken = push_answer(child.client, answer, child.job_ttl_seconds)
        except VoidAnswerError:
            own_graph = [*own_graph, *answer.by_executor]
            continue
        if not is_taken and isinstance(answer, Outputs):
            forget(child, answer.ref)
        if answer.differed:
            report_differed.tell(child.client, child.folder, answer)
            send_void(child.client, answer.job)
        return answer


def ask(child: Child, message: ChunkMessage) -> tuple[int, bytes | None, list[str]]:
    """How often the chunk was delivered, 0 if nobody wants it any more; and what Redis holds of its payload.

    And the models that are to be run by their own graphs, since another executor was found to differ.
    """
    key = keys.deliveries(message.job)
    # All at once: a cancel in between would leave the count behind.
    with child.client.pipeline() as pipe:
        names = [model.name for model in message.models]
        pipe.hmget(keys.job(message.job), [job_fields.STATE, *(f"{job_fields.OWN_GRAPH}{name}" for name in names)])
        # A chunk of a detached job may have been sent twice; any other's first answer ends nothing.
        pipe.hexists(keys.answers(message.job), str(message.index))
        # Before work begins: who dies with the chunk cannot count it.
        pipe.hincrby(key, str(message.index), 1)
        pipe.expire(key, child.job_ttl_seconds)
        if isinstance(message.ref, RedisRef):
            pipe.get(message.ref.key)
        elif isinstance(message.ref, HashRef):
            pipe.hget(message.ref.key, str(message.index))
        (state, *differed), answered, deliveries, _, *payload = pipe.execute()
    if state != b"running" or answered:
        child.client.hdel(key, *keys.delivery_fields(message.index))
        return 0, None, []
    own_graph = [name for name, seen in zip(names, differed, strict=True) if seen]
    return deliveries, payload[0] if payload else None, own_graph


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
        FreshChildError: there is no room for a model.
        RedisError: Redis is out of reach.
    """
    made: list[str] = []
    differed: list[Differed] = []
    answer = _run_chunk(child, message, payload, deliveries, own_graph, made, differed)
    return msgspec.structs.replace(answer, by_executor=made, differed=differed) if made or differed else answer


def _run_chunk(
    child: Child,
    message: ChunkMessage,
    payload: bytes | None,
    deliveries: int,
    own_graph: Collection[str],
    made: list[str],
    differed: list[Differed],
) -> Answer:
    """As `run_chunk`; which executors under check made the outputs, and what came to light of them, is added."""
    started = time.monotonic()
    watch = child.stopwatch
    watch.enter("fetch")
    try:
        history = delivery_log.read(child.client, message) if deliveries > 1 else None
        rows = fetch(child, message, payload)
        watch.enter("model")
        models, unloaded = load(child, message)
        watch.enter("infer")
        online_checks.begin(models, message, own_graph)
        if not models:
            ran = ChunkOutputs(failed=unloaded)
        elif history is None:
            todo = [RowRange(message.start, message.stop, message.stop)]
            before: Before = _unnoted
            ran = _run(message, models, rows, todo, before, [], watch)
        else:
            batch_rows = max(model.info.batch_rows for model in models.values())
            poison_rows, condemned = history.judge(batch_rows)
            if condemned:
                history.bad.append(condemned)
                delivery_log.exclude_rows(child.client, message, history.bad)
            history.bad = with_values(history.bad, rows, message.start)
            if failure := _given_up(child, message, history):
                return failure
            left_out = {record.start for record in history.bad}
            if not have_independent_rows(models):
                # Each would have another prediction without the others.
                batch_rows, poison_rows = max(1, message.stop - message.start), None
            todo = steps(message.start, message.stop, batch_rows, poison_rows, left_out)
            before = partial(delivery_log.record_intent, child.client, message, child.worker)
            ran = _run(message, models, rows, todo, before, history.bad, watch)
        if found := online_checks.differed(models, message):
            differed += found
            watch.enter("infer")
            ran = _run(message, models, rows, todo, before, history.bad if history else [], watch)
        made += online_checks.by_executor(models)
        if models:
            ran.failed[:0] = unloaded
        watch.enter("encode")
        parts = _encode(message, ran)
        ran.failed = with_values(ran.failed, rows, message.start)
        ran.failed_rows = with_values(ran.failed_rows, rows, message.start)
        if not parts and (not ran.dropped or len(ran.failed) == len(message.models)):
            return _nothing(child, message, ran)
        sum_of_parts = checksum(parts)
        watch.enter("store")
        return Outputs(
            job=message.job,
            index=message.index,
            start=message.start,
            stop=message.stop,
            slot=str(child),
            ref=store(child, message, parts),
            seconds=time.monotonic() - started,
            failed=ran.failed,
            failed_rows=ran.failed_rows,
            dropped=ran.dropped,
            nonfinite_inputs=ran.nonfinite[0],
            nonfinite_outputs=ran.nonfinite[1],
            models=message.models,
            checksum=sum_of_parts,
        )
    except (redis.RedisError, FreshChildError):
        raise
    # MemoryError too: leaving the task, it would end the whole worker.
    except Exception as error:
        return Failure(message.job, message.index, str(child), record_of(message, _stage(watch), error))


def _unnoted(step: RowRange) -> None:
    """Nobody needs to know how far the first delivery of a chunk is."""


def _done(message: ChunkMessage, answer: Answer, deliveries: int, batches: BatchCounts) -> Counts:
    """What the chunk adds to the child's counts; its rows have not failed where another delivery is asked for."""
    failed = answer.failed_rows
    if isinstance(answer, Failure) and not failed and answer.record.stage not in ASK_AGAIN:
        failed = [answer.record]
    return Counts(
        chunks=1,
        rows=message.stop - message.start,
        rows_failed=sum(record.stop - record.start for record in failed),
        rows_nonfinite_inputs=answer.nonfinite_inputs if isinstance(answer, Outputs) else 0,
        rows_nonfinite_outputs=answer.nonfinite_outputs if isinstance(answer, Outputs) else 0,
        chunks_again=int(deliveries > 1),
        batches=batches.batches,
        batch_rows=batches.rows,
        batch_places=batches.places,
    )


def _stage(watch: Stopwatch) -> str:
    """The stage as records name it, which people need not tell apart so finely."""
    return {"store": "encode", "decode": "fetch"}.get(watch.stage, watch.stage)


def _run(
    message: ChunkMessage,
    models: dict[str, LoadedModel],
    rows: Any,
    todo: list[RowRange],
    before: Before,
    bad: list[FailureRecord],
    watch: Stopwatch,
) -> ChunkOutputs:
    if message.on_error == "raise":
        return run_together(message, models, rows, todo, before, watch)
    return run_apart(message, models, rows, todo, before, watch, bad)


def _given_up(child: Child, message: ChunkMessage, history: delivery_log.DeliveryHistory) -> Failure | None:
    """The failure of a chunk that is not run again: for a row that kills, or since nobody finds it."""
    if history.bad and message.on_error == "raise":
        return Failure(message.job, message.index, str(child), history.bad[0])
    if message.on_error != "raise" and delivery_log.yields(child.client, message, child.worker, history):
        record = FailureRecord(message.start, message.stop, "worker", "Yielded", "another delivery is at work")
        return Failure(message.job, message.index, str(child), record)
    if not is_hopeless(history.deaths, len(history.bad)):
        return None
    cause = history.death or ChildDeath("", 0, "Killed", "the cause is not known")
    text = f"{history.deaths} children died with these rows, of which none was found that kills; at last: {cause.text}"
    record = FailureRecord(message.start, message.stop, "killed", cause.type or "Killed", text[:500])
    return Failure(message.job, message.index, str(child), record)


def _nothing(child: Child, message: ChunkMessage, ran: ChunkOutputs) -> Failure:
    """The failure of a chunk through which nothing went."""
    each = ran.failed if len(message.models) > 1 else []
    if not ran.failed_rows:
        return Failure(message.job, message.index, str(child), _of_all(ran.failed), each)
    first = ran.failed_rows[0]
    rows = message.stop - message.start
    text = f"all {rows} rows failed; {first.rows}: {first.text}"[:500] if rows > 1 else first.text
    # "worker" would ask for another delivery.
    stage = "killed" if first.stage == "worker" else first.stage
    whole = FailureRecord(message.start, message.stop, stage, first.type, text)
    return Failure(message.job, message.index, str(child), whole, each, ran.failed_rows if rows else [])


def _encode(message: ChunkMessage, ran: ChunkOutputs) -> spool.Parts:
    """The payload of the models that went through, empty if none did; those that cannot be sent have failed too."""

    def encoded(outputs: Any) -> spool.Parts:
        return codec.encode_parts(outputs, compression=message.compression)

    outputs = ran.outputs
    if not outputs:
        return []
    if len(message.models) == 1:
        return encoded(*outputs.values())
    with suppress(PayloadError):
        return encoded(outputs)
    for name in list(outputs):  # whose outputs are they that cannot be sent?
        try:
            encoded(outputs[name])
        except PayloadError as error:
            ran.failed.append(record_of(message, "encode", error, name))
            del outputs[name]
    return encoded(outputs) if outputs else []


def _of_all(failed: list[FailureRecord]) -> FailureRecord:
    """One record for a chunk through which no model went."""
    first = failed[0]
    if not first.model:
        return first
    text = first.text if len(failed) == 1 else f"all models failed; {first.model}: {first.text}"
    return msgspec.structs.replace(first, model="", text=text[:500])
