"""This module runs one chunk in a child: fetch, decode, fit, run each model, encode, push the answer.

A failure is an answer too: the stage, the error's type and text, never a pickled exception.
"""

from __future__ import annotations

import time
from typing import Any, cast

import redis
from celery.exceptions import Reject

from tasks import codec, keys
from tasks.causes import telling_line
from tasks.child import Child, current_child
from tasks.messages import (
    Answer,
    ChunkMessage,
    Failure,
    FailureRecord,
    InlineRef,
    Outputs,
    from_plain,
    pack,
)
from worker_config.errors import ModelError, PayloadError

# Answers to a job that is over are not kept: nobody would take them off the list.
_PUSH = """
if redis.call('HGET', KEYS[1], 'state') == 'running' then
    redis.call('RPUSH', KEYS[2], ARGV[1])
    redis.call('EXPIRE', KEYS[2], ARGV[2])
end
"""


def run_message(plain: object) -> str:
    """Run the chunk that a Celery message brought; return a short text for Celery's log.

    Raises:
        MessageError: the message is not of our form.
        Reject: Redis is out of reach; the message goes back to the queue.
    """
    child = current_child()
    message = from_plain(plain, ChunkMessage)
    try:
        wanted, payload = fetch(child.client, message)
        if not wanted:
            return f"dropped {message}: the job is over"
        answer = run_chunk(child, message, payload)
        push_answer(child.client, answer, child.job_ttl_seconds)
    except (redis.ConnectionError, redis.TimeoutError) as error:
        raise Reject(f"Redis is out of reach: {error}", requeue=True) from None
    except MemoryError as error:
        # In the reply or the answer, beyond what run_chunk catches.
        answer = Failure(message.job, message.index, str(child), _record(message, "memory", error))
        push_answer(child.client, answer, child.job_ttl_seconds)
    return f"{message}: {answer.record if isinstance(answer, Failure) else f'{answer.seconds:.3f} s'}"


def fetch(client: redis.Redis, message: ChunkMessage) -> tuple[bool, bytes | None]:
    """Whether the job still wants the chunk, and its payload; None when the payload is gone."""
    with client.pipeline(transaction=False) as pipe:
        pipe.hget(keys.job(message.job), "state")
        if not isinstance(message.ref, InlineRef):
            pipe.get(message.ref.key)
        state, *payload = cast("list[bytes | None]", pipe.execute())
    return state == b"running", message.ref.payload if isinstance(message.ref, InlineRef) else payload[0]


def run_chunk(child: Child, message: ChunkMessage, payload: bytes | None) -> Answer:
    """The chunk's outputs, or a record of why there are none; never raises an Exception."""
    started = time.monotonic()
    stage = "fetch"
    try:
        # It may have been answered by another delivery; the join then drops this failure.
        if payload is None:
            raise PayloadError("the payload is not in Redis any more")
        stage = "decode"
        rows = codec.decode(payload)
        outputs: dict[str, Any] = {}
        for ref in message.models:
            stage = "model"
            model = child.models.get(ref.name)
            if model is None:
                raise ModelError(f"worker {child} does not hold model {ref.name}")
            if model.info.digest != ref.digest:
                raise ModelError(f"worker {child} holds {ref.name}@{model.info.digest[:8]}, the job wants {ref}")
            stage = "infer"
            outputs[ref.name] = model.predict(cast("Any", rows))
        stage = "encode"
        only = next(iter(outputs.values())) if len(outputs) == 1 else outputs
        return Outputs(
            job=message.job,
            index=message.index,
            start=message.start,
            stop=message.stop,
            slot=str(child),
            payload=codec.encode(only),
            seconds=time.monotonic() - started,
        )
    # MemoryError too: leaving the task, it would end the whole worker.
    except Exception as error:
        return Failure(message.job, message.index, str(child), _record(message, stage, error))


def push_answer(client: redis.Redis, answer: Answer, ttl_seconds: int) -> None:
    """Put the answer on its job's list; a second copy does no harm, because the join drops it."""
    client.eval(_PUSH, 2, keys.job(answer.job), keys.results(answer.job), pack(answer), ttl_seconds)


def _record(message: ChunkMessage, stage: str, error: Exception) -> FailureRecord:
    return FailureRecord(
        start=message.start,
        stop=message.stop,
        stage=stage,
        type=type(error).__name__,
        text=telling_line(error)[:500],
    )
