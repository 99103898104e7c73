"""Chunks of a detached job, made again from its plan, by anyone who reaches Redis.

    plan, index --> message
    chunk whose children died, or that was taken twice --> its message once more, where rows that kill end no job
    child whose answer made earlier ones void --> all chunks without an answer --> backlog for its worker's own queue

A plan is read from a record that is sealed as it should be: what is signed here was meant by who left the job.

Should that child come to nothing in between, `resend` is still in the job's record for whoever looks after it.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import cast

import msgspec
import redis

from tasks.protocol import keys
from tasks.protocol.keys import JobField
from tasks.protocol.messages import (
    WRITTEN_VERSION,
    ChunkMessage,
    Differed,
    HashRef,
    PartsReply,
    cut_in_place,
    from_json,
)
from tasks.protocol.plan import Plan
from tasks.protocol.records import JobRecord
from tasks.protocol.seal import Sealer, record_context
from tasks.protocol.split_ref import cut
from tasks.transport import backlog, scripts
from tasks.transport.task_message import task_message
from worker_config.errors import MessageError, SealError

logger = logging.getLogger(__name__)


def message(job: str, plan: Plan, index: int) -> ChunkMessage:
    """The message of chunk `index`, the same whoever makes it."""
    start = index * plan.chunk_rows
    stop = min(start + plan.chunk_rows, plan.rows)
    output = plan.output
    return ChunkMessage(
        version=WRITTEN_VERSION,
        job=job,
        index=index,
        start=start,
        stop=stop,
        chunks=plan.chunks,
        models=plan.models,
        ref=cut_in_place(plan.in_place, start, stop) or HashRef(keys.payloads(job)),
        reply=PartsReply(output.folder) if output else "answer",
        compression=plan.compression,
        on_error=output.on_error if output else "raise",
        on_nonfinite=plan.on_nonfinite,
        kept=cut(output.kept, start, stop) if output and output.kept else None,
    )


def send_once_more(client: redis.Redis, message: ChunkMessage, queue: str, sealer: Sealer) -> bool:
    """Send a chunk again that children died with, as a producer would; False if its job has one, or ends by it.

    Who runs it next knows of those deaths, and gives it up where they are too many.
    """
    if message.on_error == "raise" or not client.hexists(keys.job(message.job), JobField.CHUNKS):
        return False
    client.lpush(keys.queue(queue), task_message(message, queue, sealer, {}))
    client.hincrby(keys.job(message.job), JobField.SENT_AGAIN, 1)
    return True


def claim_resend(client: redis.Redis, job_id: str) -> bool:
    """Whether chunks of a detached job are to be sent again, their answers being void; True for one who asks."""
    return bool(client.hdel(keys.job(job_id), JobField.RESEND))


def make_void(client: redis.Redis, job_id: str, differed: Collection[Differed]) -> None:
    """Let a part of a detached job know which executors differ, as others have found, and take their answers away."""
    held = [keys.job(job_id), keys.answers(job_id), keys.unproven(job_id)]
    words = [word for one in differed for word in (one.model, msgspec.json.encode(one))]
    scripts.run(client, "make_void", held, words)


def unanswered(client: redis.Redis, job_id: str, plan: Plan) -> list[int]:
    """The chunks of this part of a job that have no answer; those that were sent before are counted as sent again."""
    answered = cast("list[bytes]", client.hkeys(keys.answers(job_id)))
    indexes = sorted(set(plan.chunks_of(plan.part)) - set(map(int, answered)))
    again = max(0, len(indexes) - backlog.count(client, job_id))
    logger.warning("job %s: sends %s of its chunks again", job_id, again)
    client.hincrby(keys.job(job_id), JobField.SENT_AGAIN, again)
    return indexes


def send_void(client: redis.Redis, job_id: str, sealer: Sealer) -> None:
    """Send the chunks of a job whose answers are void, if it is detached, to the queue that this task came from.

    One that is under way comes twice then, which does no harm: what is answered is not run.
    """
    names = [JobField.STATE, JobField.RECORD]
    state, sealed = cast("list[bytes | None]", client.hmget(keys.job(job_id), names))
    if not sealed or state != b"running":
        return
    try:
        plan = from_json(sealer.open(record_context(job_id), sealed), JobRecord).plan
    except (SealError, MessageError) as error:
        logger.error("job %s: its chunks are not sent again: %s", job_id, error)
        return
    if plan is None or not claim_resend(client, job_id):
        return
    from celery import current_task  # children alone come here

    queue = current_task.request.delivery_info["routing_key"]
    messages = [(queue, message(job_id, plan, index)) for index in unanswered(client, job_id, plan)]
    backlog.stage(client, job_id, messages, sealer, plan.trace, plan.ttl_seconds)
    backlog.fill_queues(client, job_id, [queue])
