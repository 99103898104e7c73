"""A detached job of a name: whether it is there already, and does the same.

name, data set, models --work--> held against what the name's job does --> its id, or nothing: it is to be left
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from producer.broker import jobs
from producer.broker.shard_clients import ShardClients, open_shards
from producer.records import job_names
from producer.records.job_names import Work
from producer.records.job_store import JobState
from producer.scheduling import model_pinning
from producer.scheduling.job_options import JobName
from producer.sinks.changes import differences
from producer.sources import BatchSource, Source, fingerprint, fingerprint_of_rows
from tasks.protocol.seal import Sealer
from tasks.transport.worker_registry import read_slots
from worker_config.errors import NoWorkerError, UnknownModelError, UsageError
from worker_config.settings import Settings

logger: logging.Logger = logging.getLogger(__name__)
_NOTHING: Work = MappingProxyType({})


def named(name: str, data: object, source: Source | BatchSource) -> JobName:
    """The name with what tells the data set from others: of a path what `fingerprint` gives, of rows their checksum.

    Of rows that can be read only once, nothing but what they are called; the caller may tell more.
    """
    if isinstance(name, JobName):
        return name
    return JobName.of(name, fingerprint(data) if isinstance(data, str | Path) else fingerprint_of_rows(source))


def work_of(name: JobName, models: Mapping[str, str], output: str = "", head: Work = _NOTHING) -> Work:
    """What a job does, for the name to tell; `models` are their digests, `head` is what its output's journal says."""
    made = {key: head[key] for key in ("on_error", "keep") if key in head}
    return {"source": dict(name.source), "models": dict(models), "output": output, **made}


def find_same(shards: ShardClients, name: str, work: Work) -> str | None:
    """The id of the detached job that has the name, runs or is done, and does this; None where there is none.

    Of one that came to nothing on one shard the rest is ended, so that the name is free.

    Raises:
        UsageError: it does other work.
        MessageError: what Redis has of the name is damaged.
        BrokerError: the shard that keeps names cannot be reached.
    """
    known = jobs.ask_names(shards, lambda client: job_names.read(client, name))
    state = jobs.state_of(shards, known.job) if known.job else None
    if state in (JobState.FAILED, JobState.CANCELLED) and not known.owner:
        jobs.end_rest(shards, known.job)
    if not known.work or (not known.owner and state not in (JobState.RUNNING, JobState.DONE)):
        return None
    if changes := differences(known.work, work):
        end = "" if known.owner else f", or end that one with `celeriac cancel {known.job}`"
        raise UsageError(f"job {name!r} does other work: {', and '.join(changes.values())}; choose another name{end}")
    return known.job


def find_left(settings: Settings, name: str, data: object, models: Sequence[str]) -> str | None:
    """The id of the detached job that has the name, where no worker is up to tell which version of the models is meant.

    None where a worker tells, where there is no such job, and of rows in memory, which are told by what models take.

    Raises:
        UsageError: it does other work.
        BrokerError: Redis cannot be reached.
    """
    if not isinstance(name, JobName) and not isinstance(data, str | Path):
        return None
    with open_shards(str(settings.broker_url)) as shards:
        slots = [slot for its in shards.each(read_slots).values() for slot in its]
        try:
            model_pinning.pin(models, slots, Sealer(settings.signing_key).key_ids)
        except (NoWorkerError, UnknownModelError) as error:
            known = jobs.ask_names(shards, lambda client: job_names.read(client, name)).work.get("models", {})
            source = name.source if isinstance(name, JobName) else fingerprint(str(data))
            work = {"source": dict(source), "models": known, "output": ""}
            left = find_same(shards, name, work) if known.keys() == set(models) else None
            if left:
                logger.warning("job %s: whether its models have changed since is not known: %s", left, error)
            return left
    return None
