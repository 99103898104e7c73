"""This module keeps a record of each job in Redis, for `celeriac jobs`, `status` and `cancel` on any machine.

The hash `celeriac:job:ID` has two fields: `state`, which workers look at before each chunk, and `record`, as JSON.
"""

from __future__ import annotations

from contextlib import suppress
from enum import StrEnum
from typing import cast

import msgspec
import redis

from tasks import keys
from tasks.messages import JobRecord
from worker_config.errors import UnknownJobError


class JobState(StrEnum):
    """Where a job is."""

    RUNNING = "running"  # chunks are taken by workers
    DONE = "done"  # every row has its prediction
    FAILED = "failed"  # ended by an error, which the record tells
    CANCELLED = "cancelled"  # ended by its caller, or by `celeriac cancel`


def create(client: redis.Redis, record: JobRecord, ttl_seconds: int) -> None:
    """Enter a new job, in the state RUNNING."""
    with client.pipeline() as pipe:
        pipe.hset(keys.job(record.id), mapping={"state": JobState.RUNNING.value, "record": msgspec.json.encode(record)})
        pipe.expire(keys.job(record.id), ttl_seconds)
        pipe.zadd(keys.JOBS, {record.id: record.submitted_at})
        pipe.zremrangebyscore(keys.JOBS, "-inf", record.submitted_at - ttl_seconds)
        pipe.expire(keys.JOBS, ttl_seconds)
        pipe.execute()


def update(client: redis.Redis, record: JobRecord, ttl_seconds: int) -> tuple[JobState, bool]:
    """Write a running job's record; return its state, which somebody else may have set to CANCELLED.

    Also return whether Redis had lost the record, and so everything else.
    """
    with client.pipeline() as pipe:
        pipe.hset(keys.job(record.id), "record", msgspec.json.encode(record))
        # In case Redis lost its data: workers drop chunks of jobs that are not running.
        pipe.hsetnx(keys.job(record.id), "state", JobState.RUNNING.value)
        pipe.expire(keys.job(record.id), ttl_seconds)
        pipe.hget(keys.job(record.id), "state")
        _, lost, _, state = pipe.execute()
    return JobState(cast("bytes", state).decode()), bool(lost)


def finish(client: redis.Redis, record: JobRecord, state: JobState, ttl_seconds: int) -> None:
    """Write how a job ended; workers drop what is still queued, and push no more answers."""
    with client.pipeline() as pipe:
        pipe.hset(keys.job(record.id), mapping={"state": state.value, "record": msgspec.json.encode(record)})
        pipe.expire(keys.job(record.id), ttl_seconds)
        pipe.execute()


def cancel(client: redis.Redis, job_id: str) -> tuple[JobState, JobRecord]:
    """Ask a running job to end; return the state that it was in, and its record.

    Raises:
        UnknownJobError: there is no such job.
    """
    state, record = read(client, job_id)
    if state is JobState.RUNNING:
        client.hset(keys.job(record.id), "state", JobState.CANCELLED.value)
    return state, record


def read(client: redis.Redis, job_id: str) -> tuple[JobState, JobRecord]:
    """A job's state and record; the first characters of its id are enough.

    Raises:
        UnknownJobError: no job, or more than one, begins so.
    """
    ids = [known for known in job_ids(client) if known.startswith(job_id)] if job_id else []
    if len(ids) != 1:
        found = "no job" if not ids else f"{len(ids)} jobs"
        raise UnknownJobError(f"{found} with an id that begins with {job_id!r}; `celeriac jobs` lists them")
    state, record = cast("list[bytes | None]", client.hmget(keys.job(ids[0]), ["state", "record"]))
    if state is None or record is None:
        raise UnknownJobError(f"job {ids[0]} has expired")
    return JobState(state.decode()), msgspec.json.decode(record, type=JobRecord)


def read_all(client: redis.Redis) -> list[tuple[JobState, JobRecord]]:
    """Every job that Redis remembers, oldest first."""
    found = []
    for job_id in job_ids(client):
        with suppress(UnknownJobError):  # it expires while we look
            found.append(read(client, job_id))
    return found


def job_ids(client: redis.Redis) -> list[str]:
    """The ids of the jobs that Redis remembers, oldest first."""
    return [job_id.decode() for job_id in cast("list[bytes]", client.zrange(keys.JOBS, 0, -1))]
