"""This module runs one chunk in a child: fetch, decode, fit, run each model, encode, push the answer.

A failure is an answer too: the stage, the error's type and text, never a pickled exception. Of several models each runs
for itself: one that fails gives a record beside the outputs of the others.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

import msgspec
import redis
from celery.exceptions import Reject

from tasks import codec, keys, spool
from tasks.answers import push_answer
from tasks.causes import telling_line
from tasks.child import Child, current_child
from tasks.messages import (
    MAX_INLINE_BYTES,
    Answer,
    ChunkMessage,
    Failure,
    FailureRecord,
    FileRef,
    HashRef,
    InlineRef,
    ModelRef,
    Outputs,
    PayloadRef,
    RedisRef,
    SliceRef,
    from_plain,
)
from tasks.shelf import FreshChildError
from tasks.slices import read_slice
from worker_config.errors import PayloadError

# A job that was wanted a moment ago is not asked for again; its answers are not kept if it has ended meanwhile.
WANTED_SECONDS = 0.1


def run_message(plain: object) -> str:
    """Run the chunk that a Celery message brought; return a short text for Celery's log.

    Raises:
        MessageError: the message is not of our form.
        Reject: Redis is out of reach, or this child has no room for a model; the message goes back to the queue.
    """
    child = current_child()
    message = from_plain(plain, ChunkMessage)
    try:
        wanted, payload = ask(child, message)
        if not wanted:
            return f"dropped {message}: the job is over"
        answer = run_chunk(child, message, payload)
        if not push_answer(child.client, answer, child.job_ttl_seconds) and isinstance(answer, Outputs):
            forget(child, answer.ref)
    except (redis.ConnectionError, redis.TimeoutError) as error:
        raise Reject(f"Redis is out of reach: {error}", requeue=True) from None
    except FreshChildError:
        raise Reject(f"{child} has no room for the models of {message}; a fresh child takes it", requeue=True) from None
    except MemoryError as error:
        # In the reply or the answer, beyond what run_chunk catches.
        answer = Failure(message.job, message.index, str(child), _record(message, "memory", error))
        push_answer(child.client, answer, child.job_ttl_seconds)
    child.shelf.check_size()
    if isinstance(answer, Failure):
        return f"{message}: {answer.record}"
    return f"{message}: {'; '.join([f'{answer.seconds:.3f} s', *map(str, answer.failed)])}"


def ask(child: Child, message: ChunkMessage) -> tuple[bool, bytes | None]:
    """Whether the job still wants the chunk, and what Redis holds of its payload."""
    if not isinstance(message.ref, RedisRef | HashRef) and child.wanted.get(message.job, 0.0) > time.monotonic():
        return True, None
    with child.client.pipeline(transaction=False) as pipe:
        pipe.hget(keys.job(message.job), "state")
        # A chunk of a detached job may have been sent twice; any other's first answer ends nothing.
        pipe.hexists(keys.answers(message.job), str(message.index))
        if isinstance(message.ref, RedisRef):
            pipe.get(message.ref.key)
        elif isinstance(message.ref, HashRef):
            pipe.hget(message.ref.key, str(message.index))
        state, answered, *payload = pipe.execute()
    child.wanted.clear()
    if state == b"running":
        child.wanted[message.job] = time.monotonic() + WANTED_SECONDS
    return state == b"running" and not answered, payload[0] if payload else None


def run_chunk(child: Child, message: ChunkMessage, payload: bytes | None) -> Answer:
    """The chunk's outputs, or a record of why there are none; never raises an Exception but Redis's own.

    Raises:
        FreshChildError: there is no room for a model.
        RedisError: Redis is out of reach.
    """
    started = time.monotonic()
    stage = "fetch"
    try:
        rows = fetch(child, message, payload)
        ran = {ref.name: run_model(child, message, ref, rows) for ref in message.models}
        stage = "encode"
        parts, failed = _encode(message, ran)
        if not parts:
            each = failed if len(message.models) > 1 else []
            return Failure(message.job, message.index, str(child), _of_all(failed), each)
        return Outputs(
            job=message.job,
            index=message.index,
            start=message.start,
            stop=message.stop,
            slot=str(child),
            ref=store(child, message, parts),
            seconds=time.monotonic() - started,
            failed=failed,
        )
    except (redis.RedisError, FreshChildError):
        raise
    # MemoryError too: leaving the task, it would end the whole worker.
    except Exception as error:
        return Failure(message.job, message.index, str(child), _record(message, stage, error))


def run_model(child: Child, message: ChunkMessage, ref: ModelRef, rows: Any) -> Any:
    """What one model makes of the rows, or the record of its failure; raises what `run_chunk` does."""
    stage, count = "model", message.stop - message.start
    try:
        model = child.shelf.get(ref, message.models, str(child))
        stage = "preprocess"
        model_rows = model.prepare(rows, count)
        stage = "infer"
        outputs = model.predict(model_rows)
        stage = "postprocess"
        return model.finish(outputs, count)
    except (redis.RedisError, FreshChildError):
        raise
    except Exception as error:
        return _record(message, stage, error, ref.name)


def fetch(child: Child, message: ChunkMessage, payload: bytes | None) -> Any:
    """The chunk's rows, wherever they are.

    Raises:
        PayloadError: they are not there, or no payload.
    """
    ref = message.ref
    if isinstance(ref, SliceRef):
        return read_slice(ref, message.start, message.stop, child.places.data_roots, child.scratch)
    if isinstance(ref, InlineRef):
        payload = ref.payload
    elif isinstance(ref, FileRef):
        # In memory that the next chunk is read into: nothing of a chunk outlives it.
        return codec.decode(spool.read(child.places.spool, ref, child.scratch), borrow=True)
    if payload is None:
        # It may have been answered by another delivery; the join then drops this failure.
        raise PayloadError("the payload is not in Redis any more")
    return codec.decode(payload)


def store(child: Child, message: ChunkMessage, parts: spool.Parts) -> PayloadRef:
    """Put outputs, given in parts, where the producer wants them; into Redis, should the spool folder be full."""
    if sum(map(len, parts)) <= MAX_INLINE_BYTES or message.reply == "answer":
        return InlineRef(b"".join(parts))
    if message.reply == "files" and child.places.spool is not None:
        with suppress(OSError):
            return spool.write(child.places.spool, message.job, f"output-{message.index}", parts)
    key = keys.output(message.job, message.index)
    child.client.set(key, b"".join(parts), ex=child.job_ttl_seconds)
    return RedisRef(key)


def forget(child: Child, ref: PayloadRef) -> None:
    """Delete outputs that nobody will fetch."""
    if isinstance(ref, RedisRef):
        child.client.unlink(ref.key)
    elif isinstance(ref, FileRef) and child.places.spool is not None:
        spool.forget(child.places.spool, [ref])


def _encode(message: ChunkMessage, ran: dict[str, Any]) -> tuple[spool.Parts, list[FailureRecord]]:
    """The payload of the models that went through, empty if none did, and the records of the others."""

    def encoded(outputs: Any) -> spool.Parts:
        return codec.encode_parts(outputs, compression=message.compression)

    failed = [result for result in ran.values() if isinstance(result, FailureRecord)]
    outputs = {name: result for name, result in ran.items() if not isinstance(result, FailureRecord)}
    if not outputs:
        return [], failed
    if len(message.models) == 1:
        return encoded(*outputs.values()), failed
    with suppress(PayloadError):
        return encoded(outputs), failed
    for name in list(outputs):  # whose outputs are they that cannot be sent?
        try:
            encoded(outputs[name])
        except PayloadError as error:
            failed.append(_record(message, "encode", error, name))
            del outputs[name]
    return encoded(outputs) if outputs else [], failed


def _of_all(failed: list[FailureRecord]) -> FailureRecord:
    """One record for a chunk through which no model went."""
    first = failed[0]
    if not first.model:
        return first
    text = first.text if len(failed) == 1 else f"all models failed; {first.model}: {first.text}"
    return msgspec.structs.replace(first, model="", text=text[:500])


def _record(message: ChunkMessage, stage: str, error: Exception, model: str = "") -> FailureRecord:
    return FailureRecord(
        start=message.start,
        stop=message.stop,
        stage=stage,
        type=type(error).__name__,
        text=telling_line(error)[:500],
        model=model if len(message.models) > 1 else "",
    )
