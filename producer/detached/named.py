"""A detached job of a name: whether it is there already, and does the same.

name, data set, models --work--> held against what the name's job does --> its id, or nothing: it is to be left
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import redis

from producer.records import job_names, job_store
from producer.records.job_names import Work
from producer.records.job_store import JobState
from producer.scheduling import model_pinning
from producer.scheduling.job_options import JobName
from producer.sinks.changes import differences
from producer.sources import BatchSource, Source, fingerprint, fingerprint_of_rows
from tasks.protocol.seal import Sealer
from tasks.transport.connection import broker_errors, connect
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


def find_same(client: redis.Redis, name: str, work: Work) -> str | None:
    """The id of the detached job that has the name, runs or is done, and does this; None where there is none.

    Raises:
        UsageError: it does other work.
        MessageError: what Redis has of the name is damaged.
    """
    known = job_names.read(client, name)
    state = job_store.state_of(client, known.job) if known.job else None
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
    url = str(settings.broker_url)
    with broker_errors(url), connect(url) as client:
        try:
            model_pinning.pin(models, read_slots(client), Sealer(settings.signing_key).key_ids)
        except (NoWorkerError, UnknownModelError) as error:
            known = job_names.read(client, name).work.get("models", {})
            source = name.source if isinstance(name, JobName) else fingerprint(str(data))
            work = {"source": dict(source), "models": known, "output": ""}
            left = find_same(client, name, work) if known.keys() == set(models) else None
            if left:
                logger.warning("job %s: whether its models have changed since is not known: %s", left, error)
            return left
    return None
