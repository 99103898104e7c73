"""Puts a chunk's answer where its job looks for it, unless the job is over.

attached job:  answer --> list, off which its producer takes it
detached job:  answer --> hash by chunk; the first valid one counts, the last one ends the job; so does a failure,
               and that of the last model: one of several that fails alone is noted in the job's own hash;
               the next chunk of its backlog goes to the queue (`tasks/transport/backlog.py`)

What is noted of the chunk's deliveries ends with its answer, unless that only asks for another delivery.

An answer may tell that an executor differs from its model's own graph. The job's record has that from this moment on:
no answer of this executor is taken after it. Those that a detached job had are void, and its chunks are sent again by
whoever looks after it (`void`, `resend` in its record); until then the rows of such answers are kept.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import redis

from tasks.protocol import keys
from tasks.protocol.chunk_args import ChunkId
from tasks.protocol.messages import Answer, Failure, FailureRecord, Outputs, RedisRef, pack
from tasks.protocol.seal import Sealer, answer_context, failure_context
from tasks.transport import scripts
from tasks.transport.connection import failed_tries
from worker_config.broker import KEY_PREFIX
from worker_config.errors import CeleriacError, SealError

# Failures after which the chunk may come again.
ASK_AGAIN = ("fetch", "worker", "full")


class VoidAnswerError(Exception):
    """The chunk is to be run again, by the own graphs of its models."""


class Pushed(NamedTuple):
    """What became of an answer.

    Attributes:
        is_taken: False if the job is over or, detached, had this chunk's answer already.
        is_held: whether the server that took it is the one that holds the delivery.
        requests_wait: whether there are requests for the models of this queue.
        is_sure: whether this was the first try; else one before may have been taken, by a server that has lost its data
            since, or as the last one of its job.
    """

    is_taken: bool
    is_held: bool
    requests_wait: bool
    is_sure: bool


def push_answer(
    client: redis.Redis, answer: Answer, ttl_seconds: int, sealer: Sealer, delivery_tag: str = "", queue: str = ""
) -> Pushed:
    """Give the answer to its job.

    `ttl_seconds` is for the list of an attached job, and for outputs in Redis; a detached one has its own.
    `delivery_tag` is that of the message which is answered, and `queue` where it came from; a failure needs none, as it
    ends a detached job.

    Raises:
        VoidAnswerError: an executor made it that is known by now to differ.
    """
    job = answer.job
    held = [keys.job(job), keys.results(job), keys.answers(job), keys.payloads(job), keys.JOBS, keys.deliveries(job)]
    held += [keys.unproven(job), keys.UNACKED]
    if isinstance(answer, Outputs) and isinstance(answer.ref, RedisRef):
        held.append(answer.ref.key)
    rows, failed_rows = _rows_of(answer)
    failure = _sealed(answer.record, job, sealer) if isinstance(answer, Failure) else b""
    comes_again = isinstance(answer, Failure) and answer.record.stage in ASK_AGAIN
    noted = [] if comes_again else keys.delivery_fields(answer.index)
    sealed = sealer.seal_bytes(answer_context(job), pack(answer))
    values: list[bytes | str | float] = [sealed, ttl_seconds, job, answer.index, rows, failure]
    values.append(delivery_tag)
    nonfinite = (answer.nonfinite_inputs, answer.nonfinite_outputs) if isinstance(answer, Outputs) else (0, 0)
    seconds = answer.seconds if isinstance(answer, Outputs) else 0.0
    values += [*nonfinite, KEY_PREFIX, queue, seconds, len(noted), len(answer.by_executor), len(answer.differed)]
    values += [failed_rows, *noted, *answer.by_executor]
    for one in answer.differed:
        values += [one.model, msgspec.json.encode(one)]
    if isinstance(answer, Outputs):
        for record in answer.failed:
            values += [record.model, _sealed(record, job, sealer)]
    failed = failed_tries()
    taken, is_held, requests = scripts.run(client, "publish_answer", held, values)
    if taken == -1:
        raise VoidAnswerError
    return Pushed(bool(taken), bool(is_held), requests > 0, is_sure=failed_tries() == failed)


def _rows_of(answer: Answer) -> tuple[int, int]:
    """The rows that are predicted, or that a failure is of; and those that failed beside them."""
    if isinstance(answer, Failure):
        return answer.record.stop - answer.record.start, 0
    failed = sum(record.stop - record.start for record in answer.failed_rows)
    dropped = sum(stop - start for start, stop in answer.dropped)
    return answer.stop - answer.start - failed - dropped, failed


def _sealed(record: FailureRecord, job: str, sealer: Sealer) -> bytes:
    """As it stands in the job's hash."""
    return sealer.seal_bytes(failure_context(job), msgspec.json.encode(record))


def refuse(
    client: redis.Redis, chunk: ChunkId, error: CeleriacError, slot: str, ttl_seconds: int, sealer: Sealer
) -> None:
    """Say why a message is not heeded: one of another version never is, and a damaged one comes again.

    Where messages are signed nothing is said of one that is not: anybody may have sent it.
    """
    damaged = isinstance(error, SealError)
    if not (damaged and sealer.signs):
        record = FailureRecord(0, 0, "fetch" if damaged else "message", type(error).__name__, str(error))
        push_answer(client, Failure(chunk.job, chunk.index, slot, record), ttl_seconds, sealer)
