"""A record of each job in Redis, for `celeriac jobs`, `status` and `cancel` on any machine.

producer --JobRecord, state--> hash of the job (`tasks/protocol/keys.py`) --with its counts--> JobRecord
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from types import MappingProxyType
from typing import Any, TypeVar, cast

import msgspec
import redis

from producer.records.ledger import Ledger
from tasks.protocol import keys
from tasks.protocol.keys import JobField
from tasks.protocol.messages import Differed, FailureRecord, ModelRef, from_json, pack, unpack
from tasks.protocol.records import JobRecord, Plan
from tasks.transport import scripts
from worker_config.decoding import one_line
from worker_config.errors import MessageError, UnknownJobError

_Kind = TypeVar("_Kind", FailureRecord, Differed)


class JobState(StrEnum):
    """Where a job is."""

    RUNNING = "running"  # chunks are taken by workers
    DONE = "done"  # every row has its prediction
    FAILED = "failed"  # ended by an error, which the record tells
    CANCELLED = "cancelled"  # ended by its caller, or by `celeriac cancel`


def new_record(
    job_id: str,
    models: Sequence[ModelRef],
    label: str,
    store: str,
    rows: int | None,
    plan: Plan | None = None,
    *,
    dependent: Mapping[str, str] = MappingProxyType({}),
) -> JobRecord:
    """The record of a job that this process submits now."""
    now = time.time()
    return JobRecord(
        id=job_id,
        models=[str(model) for model in models],
        input=label,
        store=store,
        rows=rows,
        submitted_at=now,
        updated_at=now,
        producer=f"{socket.gethostname()}:{os.getpid()}",
        ledger={},
        plan=plan,
        dependent=dict(dependent),
    )


def create(client: redis.Redis, record: JobRecord, ttl_seconds: int) -> None:
    """Enter a new job, in the state RUNNING."""
    fields: dict[str, int] = {}
    if plan := record.plan:
        fields = {JobField.CHUNKS: plan.chunks, JobField.TTL: ttl_seconds, JobField.MODELS: len(plan.models)}
    _write(client, record, JobState.RUNNING, ttl_seconds, **fields)


def put(client: redis.Redis, job_id: str, index: int, payload: bytes, ttl_seconds: int) -> None:
    """Store a detached job's payload."""
    with client.pipeline() as pipe:
        pipe.hset(keys.payloads(job_id), str(index), cast("str", payload))
        pipe.expire(keys.payloads(job_id), ttl_seconds)
        pipe.execute()


def remove(client: redis.Redis, job_id: str) -> None:
    """Forget a job as if it had never been; workers drop its chunks."""
    with client.pipeline() as pipe:
        held = keys.job, keys.payloads, keys.answers, keys.deliveries, keys.unproven, keys.failures, keys.timeline
        pipe.unlink(*(key(job_id) for key in held))
        pipe.zrem(keys.JOBS, job_id)
        pipe.execute()


def update(client: redis.Redis, record: JobRecord, ttl_seconds: int) -> tuple[JobState, bool]:
    """Write a running job's record; return its state, which somebody else may have set to CANCELLED.

    Also return whether Redis had lost the record, and so everything else.
    """
    with client.pipeline() as pipe:
        pipe.hset(keys.job(record.id), JobField.RECORD, cast("str", msgspec.json.encode(record)))
        # In case Redis lost its data: workers drop chunks of jobs that are not running.
        pipe.hsetnx(keys.job(record.id), JobField.STATE, JobState.RUNNING.value)
        scripts.keep_job(pipe, record.id, ttl_seconds)
        pipe.hget(keys.job(record.id), JobField.STATE)
        _, lost, _, state = pipe.execute()
    return JobState(cast("bytes", state).decode()), bool(lost)


def tell_differed(client: redis.Redis, job_id: str, differed: Collection[Differed]) -> None:
    """Let workers run these models by their own graphs in the job, should Redis have lost that."""
    for one in differed:
        client.hsetnx(keys.job(job_id), f"{JobField.OWN_GRAPH}{one.model}", cast("str", msgspec.json.encode(one)))


def finish(client: redis.Redis, record: JobRecord, state: JobState, ttl_seconds: int) -> None:
    """Write how a job ended; workers drop what is still queued, and push no more answers."""
    _write(client, record, state, ttl_seconds)


def write_failures(client: redis.Redis, job_id: str, records: Sequence[FailureRecord], ttl_seconds: int) -> None:
    """Tell which rows have failed so far, all of them each time, so that it may be repeated."""
    with client.pipeline() as pipe:
        pipe.delete(keys.failures(job_id))
        if records:
            pipe.rpush(keys.failures(job_id), *map(pack, records))
            pipe.expire(keys.failures(job_id), ttl_seconds)
        pipe.execute()


def cancel(client: redis.Redis, job_id: str) -> tuple[JobState, JobRecord]:
    """Ask a running job to end; return the state that it was in, and its record.

    A detached job ends at once, also when it is done: its rows and outputs are gone when this returns.
    """
    _, record = read(client, job_id)
    held = [key(record.id) for key in (keys.job, keys.answers, keys.payloads, keys.deliveries, keys.unproven)]
    state = cast("bytes | None", scripts.run(client, "cancel_job", held))
    if state is None:
        raise UnknownJobError(f"job {record.id} has expired")
    return JobState(state.decode()), record


def read(client: redis.Redis, job_id: str) -> tuple[JobState, JobRecord]:
    """A job's state and record, of a detached one with the counts as they stand.

    The first characters of its id are enough; UnknownJobError where no job, or more than one, begins so.
    """
    ids = [known for known in job_ids(client) if known.startswith(job_id)] if job_id else []
    if len(ids) != 1:
        count = f"{len(ids)} jobs" if ids else "no job"
        raise UnknownJobError(f"{count} with an id that begins with {job_id!r}; `celeriac jobs` lists them")
    return read_known(client, ids[0])


def read_known(client: redis.Redis, job_id: str) -> tuple[JobState, JobRecord]:
    """The same by the whole id; MessageError where what Redis has of it is damaged."""
    return read_fields(job_id, cast("dict[bytes, bytes]", client.hgetall(keys.job(job_id))))


def read_fields(job_id: str, fields: dict[bytes, bytes]) -> tuple[JobState, JobRecord]:
    """The same of the fields of a job's hash."""
    try:
        state = JobState(fields[JobField.STATE.encode()].decode())
        record = from_json(fields[JobField.RECORD.encode()], JobRecord)
        if differed := _by_model(fields, JobField.OWN_GRAPH, Differed):
            record = msgspec.structs.replace(record, differed=differed)
        return state, _with_counts(state, record, record.plan, fields) if record.plan else record
    except KeyError:
        raise UnknownJobError(f"job {job_id} has expired, or Redis has lost its data; submit it again") from None
    except ValueError as error:
        raise MessageError(f"what Redis has of job {job_id} is damaged ({one_line(error)}); submit it again") from None


def read_failures(client: redis.Redis, record: JobRecord) -> list[FailureRecord]:
    """The rows of a job that have no prediction, as far as is known, in their order."""
    listed = cast("list[bytes]", client.lrange(keys.failures(record.id), 0, -1))
    records = [unpack(data, FailureRecord) for data in listed]
    last = cast("bytes | None", client.hget(keys.job(record.id), JobField.FAILURE))  # that ended a detached job
    ended = [from_json(last, FailureRecord)] if last else []
    for known in (*record.failed_models.values(), *ended):
        if known not in records:
            records.append(known)
    return sorted(records, key=lambda failed: (failed.start, failed.model))


def expires_at(client: redis.Redis, job_id: str) -> float:
    """When Redis forgets the job, in Unix seconds, if nothing happens to it until then."""
    return time.time() + max(0, client.pttl(keys.job(job_id))) / 1_000


def read_all(client: redis.Redis) -> list[tuple[JobState, JobRecord]]:
    """Every job that Redis remembers, oldest first."""
    jobs = []
    for job_id in job_ids(client):
        with suppress(UnknownJobError):  # it expires while we look
            jobs.append(read_known(client, job_id))
    return sorted(jobs, key=lambda job: job[1].submitted_at)


def job_ids(client: redis.Redis) -> list[str]:
    """The ids of the jobs that Redis remembers."""
    return [job_id.decode() for job_id in cast("list[bytes]", client.zrange(keys.JOBS, 0, -1))]


def _write(client: redis.Redis, record: JobRecord, state: JobState, ttl_seconds: int, **fields: int) -> None:
    values = {JobField.STATE: state.value, JobField.RECORD: msgspec.json.encode(record), **fields}
    with client.pipeline() as pipe:
        pipe.hset(keys.job(record.id), mapping=cast("dict[Any, Any]", values))
        scripts.keep_job(pipe, record.id, ttl_seconds)
        pipe.execute()


def _with_counts(state: JobState, record: JobRecord, plan: Plan, fields: dict[bytes, bytes]) -> JobRecord:
    def count(name: str) -> int:
        return int(fields.get(name.encode(), 0))

    ledger = Ledger(
        rows=plan.rows,
        **{name: count(name) for name in JobField.ROWS},
        chunks_sent=plan.chunks,
        chunks_answered=count(JobField.ANSWERED),
        chunks_sent_again=count(JobField.SENT_AGAIN),
        duplicates=count(JobField.DUPLICATES),
    )
    if state is not JobState.RUNNING:
        ledger.skipped = plan.rows - ledger.predicted - ledger.failed
    failure = fields.get(JobField.FAILURE.encode())
    return msgspec.structs.replace(
        record,
        ledger=ledger.as_dict(),
        error=str(from_json(failure, FailureRecord)) if failure else "",
        updated_at=float(fields.get(JobField.ANSWERED_AT.encode(), record.updated_at)),
        failed_models=_by_model(fields, JobField.FAILED, FailureRecord),
        void=count(JobField.VOID),
    )


def _by_model(fields: dict[bytes, bytes], prefix: str, kind: type[_Kind]) -> dict[str, _Kind]:
    """The fields that begin so, by the model whose name follows."""
    named = {name.decode(): value for name, value in fields.items()}
    return {
        name.removeprefix(prefix): from_json(value, kind) for name, value in named.items() if name.startswith(prefix)
    }
