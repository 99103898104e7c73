"""A record of each job in Redis, for `celeriac jobs`, `status` and `cancel` on any machine.

producer --JobRecord, sealed; state--> hash of the job (`tasks/protocol/keys.py`) --with its counts--> JobRecord

Counts and states are for people: nothing is handed out by them, as by the record and by what failed, which are sealed.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from itertools import chain
from types import MappingProxyType
from typing import Any, NamedTuple, cast

import msgspec
import redis

from producer.records import job_names
from producer.records.ledger import Ledger
from tasks.protocol import keys
from tasks.protocol.keys import JobField
from tasks.protocol.messages import Differed, FailureRecord, ModelRef, from_json, unpack
from tasks.protocol.plan import Plan
from tasks.protocol.records import JobRecord
from tasks.protocol.seal import Sealer, failure_context, is_signed, record_context
from tasks.transport import scripts
from worker_config.broker import KEY_PREFIX
from worker_config.errors import CeleriacError, MessageError, SealError, UnknownJobError, UsageError
from worker_config.files import escaped
from worker_config.foreign_errors import one_line


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
    weight: float = 4.0,
    dependent: Mapping[str, str] = MappingProxyType({}),
) -> JobRecord:
    """The record of a job that this process submits now."""
    now = time.time()
    return JobRecord(
        id=job_id,
        models=[str(model) for model in models],
        input=escaped(label),
        store=store,
        rows=rows,
        submitted_at=now,
        updated_at=now,
        producer=f"{socket.gethostname()}:{os.getpid()}",
        ledger={},
        plan=plan,
        weight=weight,
        dependent=dict(dependent),
    )


def create(client: redis.Redis, record: JobRecord, sealer: Sealer, ttl_seconds: int, *, only_new: bool = False) -> None:
    """Enter a new job, or its part on this server, in the state RUNNING; a part without chunks is DONE.

    With `only_new` a part that is there is left as it is.
    """
    fields: dict[str, str | float] = {JobField.STATE: JobState.RUNNING.value, JobField.WEIGHT: record.weight}
    if plan := record.plan:
        chunks = len(plan.chunks_of(plan.part))
        fields |= {JobField.CHUNKS: chunks, JobField.TTL: ttl_seconds, JobField.MODELS: len(plan.models)}
        fields |= {JobField.UNSENT: 1, JobField.STATE: (JobState.RUNNING if chunks else JobState.DONE).value}
    _write(client, record, sealer, ttl_seconds, fields, only_new=only_new)


def remove(client: redis.Redis, job_id: str, queues: Collection[str] = ()) -> None:
    """Forget a job, which may have a backlog for these queues, as if it had never been; workers drop its chunks."""
    with client.pipeline() as pipe:
        held = keys.job, keys.payloads, keys.answers, keys.deliveries, keys.unproven, keys.failures, keys.timeline
        pipe.unlink(*(key(job_id) for key in held))
        for queue in queues:
            pipe.unlink(keys.backlog(job_id, queue), keys.staged(job_id, queue))
        pipe.zrem(keys.JOBS, job_id)
        pipe.execute()


def update(client: redis.Redis, record: JobRecord, sealer: Sealer, ttl_seconds: int) -> tuple[JobState, bool]:
    """Write a running job's record; return its state, which somebody else may have set to CANCELLED.

    Also return whether Redis had lost the record, and so everything else.
    """
    with client.pipeline() as pipe:
        pipe.hset(keys.job(record.id), JobField.RECORD, cast("str", _sealed(record, sealer)))
        # In case Redis lost its data: workers drop chunks of jobs that are not running.
        pipe.hsetnx(keys.job(record.id), JobField.STATE, JobState.RUNNING.value)
        scripts.keep_job(pipe, record.id, ttl_seconds)
        pipe.hget(keys.job(record.id), JobField.STATE)
        _, lost, _, state = pipe.execute()
    return JobState(cast("bytes", state).decode()), bool(lost)


def claim_unsent(client: redis.Redis, job_id: str) -> bool:
    """Whether a detached job's messages were not all sent, as its producer was killed; True for one who asks."""
    return bool(client.hdel(keys.job(job_id), JobField.UNSENT))


def note_sent(client: redis.Redis, record: JobRecord, plan: Plan, sealer: Sealer) -> None:
    """Tell whoever looks after a detached job next that its chunks were sent again, and which workers have them."""
    known = msgspec.structs.replace(record, plan=plan, updated_at=time.time(), ledger={}, failed_models={}, differed={})
    client.hset(keys.job(record.id), JobField.RECORD, cast("str", _sealed(known, sealer)))


def tell_differed(client: redis.Redis, job_id: str, differed: Collection[Differed]) -> None:
    """Let workers run these models by their own graphs in the job, should Redis have lost that."""
    for one in differed:
        client.hsetnx(keys.job(job_id), f"{JobField.OWN_GRAPH}{one.model}", cast("str", msgspec.json.encode(one)))


def finish(client: redis.Redis, record: JobRecord, sealer: Sealer, state: JobState, ttl_seconds: int) -> None:
    """Write how a job ended; workers drop what is still queued, and push no more answers."""
    _write(client, record, sealer, ttl_seconds, {JobField.STATE: state.value}, only_new=False)


class Cancelled(NamedTuple):
    """A job that was asked to end, the state that it was in, and whether it is a detached one."""

    id: str
    state: JobState
    detached: bool


def cancel(client: redis.Redis, job_id: str) -> Cancelled:
    """Ask a running job to end; its record, which may be damaged or forged, is not looked at.

    A detached job ends at once, also when it is done: its rows and outputs are gone when this returns.
    """
    job_id = find(client, job_id)
    held = [key(job_id) for key in (keys.job, keys.answers, keys.payloads, keys.deliveries, keys.unproven)]
    state, chunks = cast("list[bytes | None]", scripts.run(client, "cancel_job", held, [KEY_PREFIX, job_id]))
    if state is None:
        raise UnknownJobError(f"job {job_id} has expired")
    try:
        return Cancelled(job_id, JobState(state.decode()), detached=chunks is not None)
    except ValueError as error:
        raise _damaged(job_id, error) from None


def set_weight(client: redis.Redis, job_id: str, weight: float) -> str:
    """Change what a running job has against others, which both know within a second; its whole id.

    Raises:
        UnknownJobError: no job, or more than one, begins so.
        UsageError: it has ended.
    """
    job_id = find(client, job_id)
    state = cast("bytes | None", scripts.run(client, "set_weight", [keys.job(job_id)], [weight]))
    if state is None:
        raise UnknownJobError(f"job {job_id} has expired")
    if state != JobState.RUNNING.value.encode():
        raise UsageError(f"job {job_id} is {state.decode()} already; only a running job has a priority")
    return job_id


def find(client: redis.Redis, job_id: str) -> str:
    """The whole id of a job, of which the first characters are enough; or of the one that has this name.

    Raises:
        UnknownJobError: no job has this name, and none, or more than one, begins so.
    """
    return choose(job_ids(client), job_names.job_of(client, job_id), job_id)


def choose(known: Collection[str], named: str, job_id: str) -> str:
    """The same of ids that are known, and of the one that has this name."""
    if named in known and job_id not in known:
        return named
    ids = [one for one in known if one.startswith(job_id)] if job_id else []
    if len(ids) != 1:
        count = f"{len(ids)} jobs" if ids else "no job of this name, and none"
        raise UnknownJobError(f"{count} with an id that begins with {job_id!r}; `celeriac jobs` lists them")
    return ids[0]


def read(client: redis.Redis, job_id: str, sealer: Sealer) -> tuple[JobState, JobRecord]:
    """A job's state and record, of a detached one with the counts as they stand; `job_id` as of `find`.

    Raises:
        UnknownJobError: no job, or more than one, begins so.
        SealError, MessageError: what Redis has of it is damaged, or is not signed as it should be.
    """
    return read_known(client, find(client, job_id), sealer)


def read_known(client: redis.Redis, job_id: str, sealer: Sealer) -> tuple[JobState, JobRecord]:
    """The same by the whole id."""
    return read_fields(job_id, cast("dict[bytes, bytes]", client.hgetall(keys.job(job_id))), sealer)


def read_fields(job_id: str, fields: dict[bytes, bytes], sealer: Sealer) -> tuple[JobState, JobRecord]:
    """The same of the fields of a job's hash."""
    try:
        state = JobState(fields[JobField.STATE.encode()].decode())
        sealed = fields[JobField.RECORD.encode()]
        record = from_json(_opened(sealer, record_context, job_id, sealed), JobRecord)
        if weight := fields.get(JobField.WEIGHT.encode()):
            record = msgspec.structs.replace(record, weight=float(weight))
        if differed := _by_model(fields, JobField.OWN_GRAPH):
            seen = {name: from_json(value, Differed) for name, value in differed.items()}
            record = msgspec.structs.replace(record, differed=seen)
        return state, _with_counts(state, record, record.plan, fields, sealer) if record.plan else record
    except KeyError:
        raise UnknownJobError(f"job {job_id} has expired, or Redis has lost its data; submit it again") from None
    except ValueError as error:
        raise _damaged(job_id, error) from None


def read_failures(client: redis.Redis, record: JobRecord, sealer: Sealer) -> list[FailureRecord]:
    """The rows of a job that have no prediction, as far as is known, in their order."""
    listed = cast("list[bytes]", client.lrange(keys.failures(record.id), 0, -1))
    records = [unpack(data, FailureRecord) for data in listed]
    last = cast("bytes | None", client.hget(keys.job(record.id), JobField.FAILURE))  # that ended a detached job
    ended = [_failure(record.id, last, sealer)] if last else []
    for known in (*record.failed_models.values(), *ended):
        if known not in records:
            records.append(known)
    return sorted(records, key=lambda failed: (failed.start, failed.model))


def state_of(client: redis.Redis, job_id: str) -> JobState | None:
    """Where a job is; None where it is not there, or nobody can tell."""
    with suppress(ValueError):
        return JobState(cast("bytes", client.hget(keys.job(job_id), JobField.STATE) or b"").decode())
    return None


def expires_at(client: redis.Redis, job_id: str) -> float:
    """When Redis forgets the job, in Unix seconds, if nothing happens to it until then."""
    return time.time() + max(0, client.pttl(keys.job(job_id))) / 1_000


def read_all(
    client: redis.Redis, sealer: Sealer, most: int = 0
) -> tuple[list[tuple[JobState, JobRecord]], list[CeleriacError]]:
    """The jobs that Redis remembers, oldest first, `most` of them if not 0; and what is wrong with unreadable ones."""
    jobs, wrong, ids = [], list[CeleriacError](), job_ids(client)[-most:]
    with client.pipeline(transaction=False) as pipe:
        for job_id in ids:
            pipe.hgetall(keys.job(job_id))
        found = pipe.execute()
    for job_id, fields in zip(ids, found, strict=True):
        try:
            with suppress(UnknownJobError):  # it has expired
                jobs.append(read_fields(job_id, fields, sealer))
        except (SealError, MessageError) as error:
            wrong.append(error)
    return sorted(jobs, key=lambda job: job[1].submitted_at), wrong


def job_ids(client: redis.Redis) -> list[str]:
    """The ids of the jobs that Redis remembers."""
    return [job_id.decode() for job_id in cast("list[bytes]", client.zrange(keys.JOBS, 0, -1))]


def _write(
    client: redis.Redis, record: JobRecord, sealer: Sealer, ttl_seconds: int, fields: dict[str, Any], *, only_new: bool
) -> None:
    values: dict[Any, Any] = {JobField.RECORD: _sealed(record, sealer), **fields}
    with client.pipeline() as pipe:
        if only_new:
            scripts.run(pipe, "enter_part", [keys.job(record.id)], list(chain(*values.items())))
        else:
            pipe.hset(keys.job(record.id), mapping=values)
        scripts.keep_job(pipe, record.id, ttl_seconds)
        pipe.execute()


def _sealed(record: JobRecord, sealer: Sealer) -> bytes:
    return sealer.seal_bytes(record_context(record.id), msgspec.json.encode(record))


def _opened(sealer: Sealer, context: Callable[[str], str], job_id: str, sealed: bytes) -> memoryview:
    try:
        return sealer.open(context(job_id), sealed)
    except SealError as error:
        no_key = is_signed(sealed) and not sealer.signs
        again = "" if no_key else f"; submit it again, `celeriac cancel {job_id}` ends what is left of it"
        raise SealError(f"job {job_id}: {error}{again}") from None


def _failure(job_id: str, sealed: bytes, sealer: Sealer, model: str | None = None) -> FailureRecord:
    record: FailureRecord = from_json(_opened(sealer, failure_context, job_id, sealed), FailureRecord)
    if model not in (None, record.model):
        raise ValueError(f"model {model} has a failure of {record.model!r}")
    return record


def _damaged(job_id: str, error: ValueError) -> MessageError:
    return MessageError(f"what Redis has of job {job_id} is damaged ({one_line(error)}); submit it again")


def _with_counts(
    state: JobState, record: JobRecord, plan: Plan, fields: dict[bytes, bytes], sealer: Sealer
) -> JobRecord:
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
    failed = {
        name: _failure(record.id, sealed, sealer, name) for name, sealed in _by_model(fields, JobField.FAILED).items()
    }
    return msgspec.structs.replace(
        record,
        ledger=ledger.as_dict(),
        error=str(_failure(record.id, failure, sealer)) if failure else "",
        updated_at=max(record.updated_at, float(fields.get(JobField.ANSWERED_AT.encode(), 0.0))),
        failed_models=failed,
        void=count(JobField.VOID),
        unsent=bool(count(JobField.UNSENT)),
    )


def _by_model(fields: dict[bytes, bytes], prefix: str) -> dict[str, bytes]:
    """The fields that begin so, by the model whose name follows."""
    named = {name.decode(): value for name, value in fields.items()}
    return {name.removeprefix(prefix): value for name, value in named.items() if name.startswith(prefix)}
