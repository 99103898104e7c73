"""This module keeps a record of each job in Redis, for `celeriac jobs`, `status` and `cancel` on any machine.

The hash `celeriac:job:ID` has two fields: `state`, which workers look at before each chunk, and `record`, as JSON.

A detached job has no producer to write its record; children count in further fields
(`tasks/transport/publish_answer.py`):

    chunks, ttl                        written once: how many answers end the job, and the seconds it is kept
    predicted, failed                  rows
    nonfinite_inputs, _outputs         of those predicted, rows that are not finite
    answered, duplicates, sent_again   chunks
    answered_at, failure               Unix seconds of the last answer; the record of the rows that failed, as JSON
    models                             written once: how many there are
    failed:MODEL, failed_models        the first record of a model that failed alone, as JSON; how many these are
    void, resend                       chunks whose answers were void; whether they are still to be sent again

Of any job, `own_graph:MODEL` says, as JSON, how an executor differed from the model's own graph, which then runs it.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from types import MappingProxyType
from typing import Any, cast

import msgspec
import redis

from producer.records.ledger import Ledger
from tasks.protocol import keys
from tasks.protocol.messages import Differed, FailureRecord, ModelRef, pack, unpack
from tasks.protocol.records import JobRecord, Plan
from tasks.transport import scripts
from worker_config.errors import UnknownJobError


class JobState(StrEnum):
    """Where a job is."""

    RUNNING = "running"  # chunks are taken by workers
    DONE = "done"  # every row has its prediction
    FAILED = "failed"  # ended by an error, which the record tells
    CANCELLED = "cancelled"  # ended by its caller, or by `celeriac cancel`


# What the fields of models that failed alone begin with.
_FAILED = b"failed:"

# Counts of rows that children keep.
_ROWS = ("predicted", "failed", "nonfinite_inputs", "nonfinite_outputs")


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
    fields: dict[Any, Any] = {"state": JobState.RUNNING.value, "record": msgspec.json.encode(record)}
    if record.plan:
        fields |= {"chunks": record.plan.chunks, "ttl": ttl_seconds, "models": len(record.plan.models)}
    with client.pipeline() as pipe:
        pipe.hset(keys.job(record.id), mapping=fields)
        scripts.keep_job(pipe, record.id, ttl_seconds)
        pipe.execute()


def put(client: redis.Redis, job_id: str, index: int, payload: bytes, ttl_seconds: int) -> None:
    """Store a detached job's payload."""
    with client.pipeline() as pipe:
        pipe.hset(keys.payloads(job_id), str(index), cast("str", payload))
        pipe.expire(keys.payloads(job_id), ttl_seconds)
        pipe.execute()


def remove(client: redis.Redis, job_id: str) -> None:
    """Forget a job as if it had never been; workers drop its chunks."""
    with client.pipeline() as pipe:
        pipe.unlink(keys.job(job_id), keys.payloads(job_id), keys.answers(job_id), keys.deliveries(job_id))
        pipe.unlink(keys.unproven(job_id), keys.failures(job_id), keys.timeline(job_id))
        pipe.zrem(keys.JOBS, job_id)
        pipe.execute()


def update(client: redis.Redis, record: JobRecord, ttl_seconds: int) -> tuple[JobState, bool]:
    """Write a running job's record; return its state, which somebody else may have set to CANCELLED.

    Also return whether Redis had lost the record, and so everything else.
    """
    with client.pipeline() as pipe:
        pipe.hset(keys.job(record.id), "record", msgspec.json.encode(record))
        # In case Redis lost its data: workers drop chunks of jobs that are not running.
        pipe.hsetnx(keys.job(record.id), "state", JobState.RUNNING.value)
        scripts.keep_job(pipe, record.id, ttl_seconds)
        pipe.hget(keys.job(record.id), "state")
        _, lost, _, state = pipe.execute()
    return JobState(cast("bytes", state).decode()), bool(lost)


def tell_differed(client: redis.Redis, job_id: str, differed: Collection[Differed]) -> None:
    """Let workers run these models by their own graphs in the job, should Redis have lost that."""
    for one in differed:
        client.hsetnx(keys.job(job_id), f"{keys.OWN_GRAPH}{one.model}", cast("str", msgspec.json.encode(one)))


def finish(client: redis.Redis, record: JobRecord, state: JobState, ttl_seconds: int) -> None:
    """Write how a job ended; workers drop what is still queued, and push no more answers."""
    with client.pipeline() as pipe:
        pipe.hset(keys.job(record.id), mapping={"state": state.value, "record": msgspec.json.encode(record)})
        scripts.keep_job(pipe, record.id, ttl_seconds)
        pipe.execute()


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

    Raises:
        UnknownJobError: there is no such job.
    """
    _, record = read(client, job_id)
    held = [keys.job(record.id), keys.answers(record.id), keys.payloads(record.id), keys.deliveries(record.id)]
    held.append(keys.unproven(record.id))
    state = cast("bytes | None", scripts.run(client, "cancel_job", held))
    if state is None:
        raise UnknownJobError(f"job {record.id} has expired")
    return JobState(state.decode()), record


def read(client: redis.Redis, job_id: str) -> tuple[JobState, JobRecord]:
    """A job's state and record; the first characters of its id are enough.

    The record of a detached job has the counts as they stand.

    Raises:
        UnknownJobError: no job, or more than one, begins so.
    """
    ids = [known for known in job_ids(client) if known.startswith(job_id)] if job_id else []
    if len(ids) != 1:
        found = "no job" if not ids else f"{len(ids)} jobs"
        raise UnknownJobError(f"{found} with an id that begins with {job_id!r}; `celeriac jobs` lists them")
    return read_known(client, ids[0])


def read_known(client: redis.Redis, job_id: str) -> tuple[JobState, JobRecord]:
    """The same by the whole id.

    Raises:
        UnknownJobError: the job has expired.
    """
    fields = cast("dict[bytes, bytes]", client.hgetall(keys.job(job_id)))
    if b"state" not in fields or b"record" not in fields:
        raise UnknownJobError(f"job {job_id} has expired, or Redis has lost its data; submit it again")
    state = JobState(fields[b"state"].decode())
    record = msgspec.json.decode(fields[b"record"], type=JobRecord)
    if differed := _differed(fields):
        record = msgspec.structs.replace(record, differed=differed)
    return state, _with_counts(state, record, record.plan, fields) if record.plan else record


def read_failure(client: redis.Redis, job_id: str) -> FailureRecord | None:
    """What became of the rows that ended a detached job, if rows did."""
    failure = cast("bytes | None", client.hget(keys.job(job_id), "failure"))
    return msgspec.json.decode(failure, type=FailureRecord) if failure else None


def read_failures(client: redis.Redis, record: JobRecord) -> list[FailureRecord]:
    """The rows of a job that have no prediction, as far as is known, in their order."""
    records = [
        unpack(data, FailureRecord) for data in cast("list[bytes]", client.lrange(keys.failures(record.id), 0, -1))
    ]
    for known in (*record.failed_models.values(), read_failure(client, record.id)):
        if known and known not in records:
            records.append(known)
    return sorted(records, key=lambda failed: (failed.start, failed.model))


def expires_at(client: redis.Redis, job_id: str) -> float:
    """When Redis forgets the job, in Unix seconds, if nothing happens to it until then."""
    return time.time() + max(0, client.pttl(keys.job(job_id))) / 1_000


def read_all(client: redis.Redis) -> list[tuple[JobState, JobRecord]]:
    """Every job that Redis remembers, oldest first."""
    found = []
    for job_id in job_ids(client):
        with suppress(UnknownJobError):  # it expires while we look
            found.append(read_known(client, job_id))
    return sorted(found, key=lambda job: job[1].submitted_at)


def job_ids(client: redis.Redis) -> list[str]:
    """The ids of the jobs that Redis remembers."""
    return [job_id.decode() for job_id in cast("list[bytes]", client.zrange(keys.JOBS, 0, -1))]


def _with_counts(state: JobState, record: JobRecord, plan: Plan, fields: dict[bytes, bytes]) -> JobRecord:
    counts = {name: int(fields.get(name.encode(), 0)) for name in (*_ROWS, "answered")}
    ledger = Ledger(
        rows=plan.rows,
        **{name: counts[name] for name in _ROWS},
        chunks_sent=plan.chunks,
        chunks_answered=counts["answered"],
        chunks_sent_again=int(fields.get(b"sent_again", 0)),
        duplicates=int(fields.get(b"duplicates", 0)),
    )
    if state is not JobState.RUNNING:
        ledger.skipped = plan.rows - ledger.predicted - ledger.failed
    error = str(msgspec.json.decode(fields[b"failure"], type=FailureRecord)) if b"failure" in fields else ""
    at = float(fields.get(b"answered_at", record.updated_at))
    failed = {
        name.removeprefix(_FAILED).decode(): msgspec.json.decode(value, type=FailureRecord)
        for name, value in fields.items()
        if name.startswith(_FAILED)
    }
    void = int(fields.get(b"void", 0))
    return msgspec.structs.replace(
        record, ledger=ledger.as_dict(), error=error, updated_at=at, failed_models=failed, void=void
    )


def _differed(fields: dict[bytes, bytes]) -> dict[str, Differed]:
    seen = [value for name, value in fields.items() if name.startswith(keys.OWN_GRAPH.encode())]
    return {one.model: one for one in (msgspec.json.decode(value, type=Differed) for value in seen)}
