"""A detached job of a name: whether it is there already, and does the same.

name, data set, models --work--> held against what the name's job does --> its id, or nothing: it is to be left
"""

from __future__ import annotations

from pathlib import Path

import redis

from producer.records import job_names, job_store
from producer.records.job_names import Work
from producer.records.job_store import JobState
from producer.scheduling.job_options import JobName
from producer.sinks.changes import differences
from producer.sources import BatchSource, Source, fingerprint, fingerprint_of_rows
from tasks.protocol.messages import ModelRef
from worker_config.errors import UsageError


def named(name: str, data: object, source: Source | BatchSource) -> JobName:
    """The name with what tells the data set from others: of a path what `fingerprint` gives, of rows their checksum.

    Of rows that can be read only once, nothing but what they are called; the caller may tell more.
    """
    if isinstance(name, JobName):
        return name
    return JobName.of(name, fingerprint(data) if isinstance(data, str | Path) else fingerprint_of_rows(source))


def work_of(name: JobName, models: list[ModelRef]) -> Work:
    """What a job does, for the name to tell."""
    return {"source": dict(name.source), "models": {model.name: model.digest for model in models}, "output": ""}


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
