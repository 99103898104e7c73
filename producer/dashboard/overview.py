"""All that goes on, as plain values by key: jobs, workers with their slots, models and where they are held; or one job.

Redis --broker.jobs, worker_registry--> records --> {"job:ID": {...}, "worker:NAME": {...}, "model:NAME@VERSION": {...}}
      --gather, as for `celeriac report`--> JobFacts --charts, tables--> {"head": ..., "chart:lanes": ..., ...}

Times are moments in Unix seconds, so that a value changes only when something has happened.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from msgspec.structs import replace

from producer.broker.jobs import read_all, read_parts
from producer.broker.shard_clients import ShardClients
from producer.broker.shards import on_shard
from producer.records.failures import failed_alone
from producer.records.job_store import JobState
from producer.records.progress import Pace, is_silent, progress_of
from producer.records.store_waits import of_job, waits_in
from producer.report import charts, gather, tables
from producer.report.gather import JobFacts
from producer.scheduling.model_pinning import refs
from producer.scheduling.priority import priority_name
from tasks.protocol.records import JobRecord, ModelInfo, Running
from tasks.protocol.seal import Viewer
from tasks.transport.worker_registry import WorkerRecord, read_records

Values = dict[str, Any]

# Of more a page would be long, and Redis be asked for much each second; running jobs are among the last.
MOST_JOBS = 300
# Of one job; groups are those of a picture that is sent and drawn again all the time.
MOST_FAILURES, MOST_EVENTS, MOST_GROUPS = 200, 50, 300
_UNCHECKED = "Jobs are signed, and the dashboard has no key: they are shown unchecked."


class Overview:
    """Reads what goes on; knows of running jobs how fast they have been."""

    def __init__(self, viewer: Viewer) -> None:
        self._viewer = viewer
        self._paces: dict[str, Pace] = {}

    def read(self, shards: ShardClients) -> Values:
        """All of it as it is now; of several shards, of those that are up."""
        jobs, wrong = read_all(shards, self._viewer, MOST_JOBS)
        workers = {
            on_shard(name, shard): one for shard, its in shards.each(read_records).items() for name, one in its.items()
        }
        held = Counter(frozenset(map(str, refs(slot.models))) for one in workers.values() for slot in one.slots)
        running = {record.id for state, record in jobs if state is JobState.RUNNING}
        self._paces = {job_id: pace for job_id, pace in self._paces.items() if job_id in running}
        waits = waits_in({name: one.facts for name, one in workers.items()})
        jobs = [(state, replace(record, waits=of_job(waits, record.id))) for state, record in jobs]
        values: Values = {f"job:{record.id}": self._job(state, record, held) for state, record in jobs}
        values |= {f"worker:{node_of(name)}": worker_values(one) for name, one in workers.items()}
        values |= {f"model:{ref}": one for ref, one in model_values(workers).items()}
        values["notes"] = [str(error) for error in (*shards.away.values(), *wrong)] + [
            _UNCHECKED
        ] * self._viewer.unchecked
        return values

    def _job(self, state: JobState, record: JobRecord, held: Mapping[frozenset[str], int]) -> Values:
        values = job_values(state, record)
        if state is not JobState.RUNNING:
            return values
        progress, pace = progress_of(state, record), self._paces.get(record.id)
        if pace is None:
            pace = self._paces[record.id] = Pace()
            pace.add(0.0, record.ledger.get("resumed", 0))
        pace.add(progress.seconds, progress.done)
        slots = sum(count for models, count in held.items() if models.issuperset(record.models))
        return values | {"rate": pace.rows_per_second, "slots": slots}


def job_values(state: JobState, record: JobRecord) -> Values:
    """What a job's line on the page is made of."""
    progress = progress_of(state, record)
    notes = [record.error, *(f"model {name}: {one}" for name, one in record.differed.items())]
    notes += [failed_alone(record.failed_models)] if record.failed_models else []
    notes += [f"its producer {record.producer} gives no sign of life"] if is_silent(state, record) else []
    notes += [record.missing, record.waits] if state is JobState.RUNNING else []
    return {
        "id": record.id,
        "state": state.value,
        "models": record.models,
        "input": record.input,
        "rows": record.rows,
        "predicted": progress.predicted,
        "failed": progress.failed,
        "done": progress.done,
        "submitted": record.submitted_at,
        "updated": record.updated_at,
        "producer": record.producer,
        "detached": record.plan is not None,
        "priority": priority_name(record.weight),
        "notes": [note for note in notes if note],
    }


def worker_values(record: WorkerRecord) -> Values:
    """A worker, and each slot as [number, process, job, what it was at in words, for how many seconds]."""
    facts, told = record.facts, record.preparing
    running = {slot: [one.job, _doing(one), one.seconds] for slot, one in facts.running.items()}
    slots = [[slot.slot, slot.pid, *running.get(slot.slot, ["", "", 0.0])] for slot in record.slots]
    # Those of a worker that drains are none any more, but what runs there ends first.
    slots += [[slot, 0, *one] for slot, one in running.items()] if facts.draining else []
    return {
        "draining": facts.draining,
        "preparing": told.step if told and not record.slots else "",
        "since": min((slot.ready_at for slot in record.slots), default=told.since if told else 0.0),
        "cores": facts.cores,
        "gpus": len(facts.gpus),
        "threads": facts.threads,
        "models": sorted({str(ref) for slot in record.slots for ref in refs(slot.models)}),
        "slots": slots,
    }


def _doing(one: Running) -> str:
    return f"{one.text}; waits for {one.waits}" if one.waits else one.text


def model_values(workers: Mapping[str, WorkerRecord]) -> dict[str, Values]:
    """Each version of each model, how it is run, and how many slots of which workers hold it."""
    infos: dict[str, ModelInfo] = {}
    places: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for name, record in workers.items():
        for slot in record.slots:
            for ref, info in zip(refs(slot.models), slot.models, strict=True):
                infos[str(ref)] = info
                places[str(ref)][node_of(name)] += 1
    return {ref: _model(info, places[ref].items()) for ref, info in infos.items()}


def _model(info: ModelInfo, places: Iterable[tuple[str, int]]) -> Values:
    return {
        "name": info.name,
        "digest": info.digest,
        "executor": info.executor,
        "batch": info.batch_rows,
        "rate": info.batch_rows / info.batch_seconds if info.batch_seconds else None,
        "own": info.memory_bytes,
        "shared": info.shared_bytes,
        "places": sorted(places),
        "notes": [note for note in (info.note, info.dependent) if note],
    }


def node_of(worker: str) -> str:
    """The name by which Celery knows a worker, of its own, which is NAME@HOST:TOKEN; and its shard, as of a queue."""
    name, _, token = worker.rpartition(":")
    _, shard, number = token.partition("@")
    return f"{name}{shard}{number}" if name else worker


class JobView:
    """Reads one job, by its whole id; a job that has ended and has not changed since is not read again."""

    def __init__(self, viewer: Viewer, job_id: str) -> None:
        self._viewer, self._job_id = viewer, job_id
        self._last: tuple[JobState, float] | None = None
        self._values: dict[str, Any] = {}

    def read(self, shards: ShardClients) -> dict[str, Any]:
        """All of it as it is now."""
        state, record = read_parts(shards, self._job_id, self._viewer).whole()
        if state is JobState.RUNNING or self._last != (state, record.updated_at):
            self._values = view_values(gather(shards, self._job_id, self._viewer))
            self._last = state, record.updated_at
        return self._values


def view_values(facts: JobFacts) -> dict[str, Any]:
    """What the page shows of a job."""
    record, failed = facts.record, facts.record.ledger.get("failed", 0)
    return {
        "head": job_values(facts.state, record) | {"verdict": f"{tables.verdict(facts)}.", "note": facts.note},
        "failures": {
            "failed": failed,
            "known": len(facts.failures),
            "records": [
                [one.rows.split(" ", 1)[1], one.model, one.stage, one.type, one.text]
                for one in facts.failures[:MOST_FAILURES]
            ],
        },
        "events": tables.event_rows(facts, MOST_EVENTS),
        "ledger": tables.ledger_rows(facts),
        **{f"chart:{name}": one for name, one in charts(facts, MOST_GROUPS).items()},
    }
