"""This module runs one chunk in a child: fetch, decode, fit, run each model, encode, push the answer.

A failure is an answer too: the stage, the error's type and text, never a pickled exception.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

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
        Reject: Redis is out of reach; the message goes back to the queue.
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
    return f"{message}: {answer.record if isinstance(answer, Failure) else f'{answer.seconds:.3f} s'}"


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
    """The chunk's outputs, or a record of why there are none; never raises an Exception but Redis's own."""
    started = time.monotonic()
    stage = "fetch"
    try:
        rows = fetch(child, message, payload)
        outputs: dict[str, Any] = {}
        for ref in message.models:
            stage = "model"
            model = child.shelf.get(ref, message.models, str(child))
            stage, count = "preprocess", message.stop - message.start
            model_rows = model.prepare(rows, count)
            stage = "infer"
            model_outputs = model.predict(model_rows)
            stage = "postprocess"
            outputs[ref.name] = model.finish(model_outputs, count)
        stage = "encode"
        only = next(iter(outputs.values())) if len(outputs) == 1 else outputs
        return Outputs(
            job=message.job,
            index=message.index,
            start=message.start,
            stop=message.stop,
            slot=str(child),
            ref=store(child, message, codec.encode_parts(only, compression=message.compression)),
            seconds=time.monotonic() - started,
        )
    except (redis.RedisError, FreshChildError):
        raise
    # MemoryError too: leaving the task, it would end the whole worker.
    except Exception as error:
        return Failure(message.job, message.index, str(child), _record(message, stage, error))


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


def _record(message: ChunkMessage, stage: str, error: Exception) -> FailureRecord:
    return FailureRecord(
        start=message.start,
        stop=message.stop,
        stage=stage,
        type=type(error).__name__,
        text=telling_line(error)[:500],
    )
