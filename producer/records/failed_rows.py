"""The rows of a job that have no prediction: those that it has told of, and those that answers of a left one tell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import redis

from producer.records import job_store
from tasks.protocol import keys
from tasks.protocol.messages import Answer, FailureRecord, Outputs, pack, unpack
from tasks.protocol.records import JobRecord
from tasks.protocol.seal import Sealer, answer_context

# Of answers, which name files, those read at once.
_AT_ONCE = 256


def write_failures(client: redis.Redis, job_id: str, records: Sequence[FailureRecord], ttl_seconds: int) -> None:
    """Tell which rows have failed so far, all of them each time, so that it may be repeated."""
    with client.pipeline() as pipe:
        pipe.delete(keys.failures(job_id))
        if records:
            pipe.rpush(keys.failures(job_id), *map(pack, records))
            pipe.expire(keys.failures(job_id), ttl_seconds)
        pipe.execute()


def read_failures(client: redis.Redis, record: JobRecord, sealer: Sealer) -> list[FailureRecord]:
    """All of them, in their order.

    Raises:
        SealError, MessageError: what Redis has of them is damaged, or not signed as it should be.
    """
    records = job_store.read_failures(client, record, sealer)
    plan = record.plan
    if plan is None or plan.output is None or plan.output.on_error == "raise":
        return records
    chunks = plan.chunks_of(plan.part)
    for start in range(0, len(chunks), _AT_ONCE):
        fields = list(map(str, chunks[start : start + _AT_ONCE]))
        for data in cast("list[bytes | None]", client.hmget(keys.answers(record.id), fields)):
            if data is not None:
                answer: Answer = unpack(sealer.open(answer_context(record.id), data), Answer)
                records += answer.failed_rows if isinstance(answer, Outputs) else []
    return sorted(records, key=lambda failed: (failed.start, failed.model))
