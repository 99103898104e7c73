"""Finds jobs on all shards, reads what each has of them, and changes them there.

id, name --find--> whole id --read_parts--> JobParts --> state, record
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import redis

from producer.broker.job_parts import JobParts
from producer.broker.shard_clients import Answered, ShardClients
from producer.records import failed_rows, job_names, job_store
from producer.records.job_store import Cancelled, JobState
from producer.records.turns import Turn, read_turns
from tasks.protocol.messages import FailureRecord
from tasks.protocol.preparing import Preparing
from tasks.protocol.records import JobRecord, SlotRecord, WorkerFacts
from tasks.protocol.seal import Sealer
from tasks.transport.worker_registry import read_all as read_workers
from worker_config.errors import BrokerError, CeleriacError, UnknownJobError

# The shard that keeps the names of jobs; a detached job with a name has a part there, though it may be without chunks.
NAMES_SHARD = 0


def ask_names(shards: ShardClients, ask: Callable[[redis.Redis], Answered]) -> Answered:
    """What the shard that keeps names answers; raises BrokerError, which says so where there are others."""
    try:
        return shards.on(NAMES_SHARD, ask)
    except BrokerError as error:
        if len(shards.urls) > 1:
            error.args = (f"{error} It is the shard that keeps the names of jobs.",)
        raise


def find(shards: ShardClients, job_id: str) -> str:
    """As `job_store.find`, of the jobs of all shards that are up."""
    seen = shards.each(lambda client: (job_store.job_ids(client), job_names.job_of(client, job_id)))
    known = dict.fromkeys(one for ids, _ in seen.values() for one in ids)
    try:
        return job_store.choose(list(known), seen[NAMES_SHARD][1] if NAMES_SHARD in seen else "", job_id)
    except UnknownJobError as error:
        if not shards.away:
            raise
        raise UnknownJobError(f"{error}; {next(iter(shards.away.values()))}") from None


def read(shards: ShardClients, job_id: str, sealer: Sealer) -> tuple[JobState, JobRecord]:
    """A job's state and record; raises as `job_store.read`, and BrokerError where no shard is up."""
    return read_parts(shards, find(shards, job_id), sealer).whole()


def read_parts(shards: ShardClients, job_id: str, sealer: Sealer) -> JobParts:
    """What each shard has of a job, by its whole id; raises as `read`."""
    found: dict[int, tuple[JobState, JobRecord]] = {}
    unknown: list[UnknownJobError] = []

    def ask(client: redis.Redis) -> tuple[JobState, JobRecord] | None:
        try:
            return job_store.read_known(client, job_id, sealer)
        except UnknownJobError as error:
            unknown.append(error)
            return None

    found = {shard: one for shard, one in shards.each(ask).items() if one}
    if not found:
        raise next(iter(shards.away.values()), None) or unknown[0]
    return JobParts(shards.urls, found, dict(shards.away))


def read_all(
    shards: ShardClients, sealer: Sealer, most: int = 0
) -> tuple[list[tuple[JobState, JobRecord]], list[CeleriacError]]:
    """As `job_store.read_all`, each job once, whichever shards have it."""
    found: defaultdict[str, dict[int, tuple[JobState, JobRecord]]] = defaultdict(dict)
    wrong: dict[str, CeleriacError] = {}
    # The last ones of a shard need not be those of another.
    of_each = most if len(shards.urls) == 1 else 0
    for shard, (jobs, errors) in shards.each(lambda client: job_store.read_all(client, sealer, of_each)).items():
        for state, record in jobs:
            found[record.id][shard] = state, record
        wrong |= {str(error): error for error in errors}
    whole = []
    for job_id, by_shard in found.items():
        parts = JobParts(shards.urls, by_shard, dict(shards.away))
        with suppress(UnknownJobError):  # it was never left
            # One that is left just now is seen on some shards, and not yet on those that were asked before.
            whole.append((read_parts(shards, job_id, sealer) if parts.lost else parts).whole())
    return sorted(whole, key=lambda job: job[1].submitted_at)[-most:], list(wrong.values())


def state_of(shards: ShardClients, job_id: str) -> JobState | None:
    """As `job_store.state_of`, without a look at its records: parts that are lost are not missed.

    Raises:
        BrokerError: no shard that is up knows the job, and another one may.
    """
    states = {state for state in shards.each(lambda client: job_store.state_of(client, job_id)).values() if state}
    if shards.away and not states:
        raise next(iter(shards.away.values()))
    order = (JobState.FAILED, JobState.CANCELLED, JobState.RUNNING, JobState.DONE)
    return next((state for state in order if state in states), None)


def end_rest(shards: ShardClients, job_id: str) -> None:
    """End what other shards have of a detached job that came to nothing on one; raises BrokerError."""
    for shard, state in shards.each(lambda client: job_store.state_of(client, job_id)).items():
        if state in (JobState.RUNNING, JobState.DONE):
            shards.on(shard, lambda client: job_store.cancel(client, job_id))


def cancel(shards: ShardClients, job_id: str) -> Cancelled:
    """As `job_store.cancel`, on every shard that is up and has it; `check_reached` tells of the others."""
    job_id = find(shards, job_id)

    def end(client: redis.Redis) -> Cancelled | None:
        with suppress(UnknownJobError):
            return job_store.cancel(client, job_id)
        return None

    ended = [one for one in shards.each(end).values() if one]
    if not ended:
        raise UnknownJobError(f"job {job_id} has expired")
    order = (JobState.RUNNING, JobState.DONE, JobState.FAILED, JobState.CANCELLED)
    return min(ended, key=lambda one: order.index(one.state))


def set_weight(shards: ShardClients, job_id: str, weight: float) -> str:
    """As `job_store.set_weight`, on every shard that is up and runs it; `check_reached` tells of the others."""
    job_id, errors = find(shards, job_id), list[CeleriacError]()

    def change(client: redis.Redis) -> bool:
        try:
            return bool(job_store.set_weight(client, job_id, weight))
        except CeleriacError as error:
            errors.append(error)
            return False

    if not any(shards.each(change).values()):
        # That it has ended says more than that one does not know it.
        raise min(errors, key=lambda error: isinstance(error, UnknownJobError))
    return job_id


def check_reached(shards: ShardClients, what: str) -> None:
    """Raise BrokerError if a shard was away when something was changed on all; `what` says what, of the others."""
    if shards.away:
        why = "; ".join(map(str, shards.away.values()))
        raise BrokerError(f"{what} where it could be reached; {why} Do it again when that is back.")


def expires_at(shards: ShardClients, parts: JobParts) -> float:
    """When the first part of the job is forgotten, in Unix seconds, if nothing happens to it until then."""
    return min(shards.each(lambda client: job_store.expires_at(client, parts.id), parts.found).values())


def read_failures(shards: ShardClients, parts: JobParts, sealer: Sealer) -> list[FailureRecord]:
    """As `failed_rows.read_failures`, of all parts."""
    known: list[FailureRecord] = []
    for shard, (_, record) in parts.found.items():
        mine = shards.on(shard, partial(failed_rows.read_failures, record=record, sealer=sealer))
        known += [one for one in mine if one not in known]
    return sorted(known, key=lambda failed: (failed.start, failed.model))


def turns(shards: ShardClients, job_ids: list[str]) -> dict[str, Turn]:
    """As `read_turns`; of a job on several shards, where its share is largest."""
    found: dict[str, Turn] = {}
    for seen in shards.each(lambda client: read_turns(client, job_ids)).values():
        for job_id, turn in seen.items():
            found[job_id] = max(found.get(job_id, turn), turn, key=lambda one: one.share)
    return found


def workers(
    shards: ShardClients,
) -> tuple[dict[str, list[SlotRecord]], dict[str, Preparing], dict[str, WorkerFacts]]:
    """As `worker_registry.read_all`, of all shards that are up."""
    slots: dict[str, list[SlotRecord]] = {}
    preparing: dict[str, Preparing] = {}
    facts: dict[str, WorkerFacts] = {}
    for its in shards.each(read_workers).values():
        slots, preparing, facts = slots | its[0], preparing | its[1], facts | its[2]
    return slots, preparing, facts
