"""All that Redis knows of a job, for its report; it changes nothing there.

attached job   record, failures, and the timeline that its producer kept
detached job   record, failures, and what its answers say: nobody watched them come
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from functools import partial
from typing import cast

import msgspec
import redis

from producer.broker.job_parts import JobParts
from producer.broker.jobs import read_failures, read_parts
from producer.broker.shard_clients import ShardClients
from producer.records import timeline_store
from producer.records.job_store import JobState
from producer.records.timeline import MOST_SLOWEST, Entry, Outcome, RowsByTime, TimelineSummary, entry_of
from tasks.protocol import keys
from tasks.protocol.messages import Answer, FailureRecord, Outputs, unpack
from tasks.protocol.plan import Plan
from tasks.protocol.records import JobRecord
from tasks.protocol.seal import Sealer, content_of
from worker_config.errors import MessageError

# Answers carry their outputs along, so not all are looked at.
MOST_ANSWERS_READ = 2_000
_NO_TIMELINE = "No timeline of this job was kept: its producer ended before the first second, or lost Redis."


@dataclass(frozen=True)
class JobFacts:
    """All that a report is made of.

    Attributes:
        summary, entries: what happened; empty where nobody noted it.
        note: what is missing, and why; empty where nothing is.
    """

    state: JobState
    record: JobRecord
    failures: list[FailureRecord] = field(default_factory=list)
    summary: TimelineSummary = field(default_factory=lambda: TimelineSummary(0.0))
    entries: list[Entry] = field(default_factory=list)
    note: str = ""


def gather(shards: ShardClients, job_id: str, sealer: Sealer) -> JobFacts:
    """All that is known of a job, by its whole id."""
    parts = read_parts(shards, job_id, sealer)
    state, record = parts.whole()
    failures = read_failures(shards, parts, sealer)
    if record.plan:
        return _of_detached(shards, parts, JobFacts(state, record, failures), record.plan)
    kept = [one for one in shards.each(lambda client: timeline_store.read(client, job_id)).values() if one]
    if not kept:
        return JobFacts(state, record, failures, note=_NO_TIMELINE)
    return JobFacts(state, record, failures, *max(kept, key=lambda one: one[0].answers))


def _of_detached(shards: ShardClients, parts: JobParts, facts: JobFacts, plan: Plan) -> JobFacts:
    every = -(-plan.chunks // MOST_ANSWERS_READ)
    entries = []
    for index in range(0, plan.chunks, every):
        if (shard := parts.places.get(plan.part_of(index))) is None:
            continue
        data = shards.on(shard, partial(_answer, job_id=parts.id, index=index))
        if data and (entry := _entry(data)):
            entries.append(entry)
    if not entries:
        why = "no answer of it is in Redis: none came yet, or the job failed or was cancelled"
        return replace(facts, note=f"This job was detached, and {why}.")
    began_at, rows = facts.record.submitted_at, RowsByTime()
    stages: defaultdict[str, float] = defaultdict(float)
    for entry in entries:
        rows.add(entry.answered_at - began_at, (entry.stop - entry.start) * every)
        for stage, seconds in entry.stages.items():
            stages[stage] += (min(seconds, entry.begun_at - began_at) if stage == "wait" else seconds) * every
    slots = {entry.slot for entry in entries}
    workers = [slot.rpartition("/")[0] for slot in slots]
    summary = TimelineSummary(
        began_at,
        every=every,
        answers=facts.record.ledger.get("chunks_answered", len(entries)),
        bin_seconds=rows.seconds,
        bins=rows.bins,
        slowest=sorted(entries, key=lambda entry: -entry.seconds)[:MOST_SLOWEST],
        settings={
            "detached": "yes",
            "store": "slices" if plan.in_place else "redis",
            "chunk_rows": str(plan.chunk_rows),
            "compression": plan.compression or "none",
            "kept for": f"{plan.ttl_seconds / 3600:g} h",
        },
        workers=dict.fromkeys(sorted(workers)),
        slots=Counter(workers),
    )
    note = "This job was detached: the times are those that its answers tell, by the clocks of the workers."
    if every > 1:
        note += f" Of {every} chunks one was looked at, also for sums."
    record = msgspec.structs.replace(facts.record, stages=dict(stages))
    return JobFacts(facts.state, record, facts.failures, summary, sorted(entries, key=lambda e: e.answered_at), note)


def _answer(client: redis.Redis, job_id: str, index: int) -> bytes | None:
    return cast("bytes | None", client.hget(keys.answers(job_id), str(index)))


def _entry(data: bytes) -> Entry | None:
    try:
        answer: Answer = unpack(content_of(data), Answer)
    except MessageError:  # of another version
        return None
    if not isinstance(answer, Outputs) or not answer.begun_at:
        return None
    entry = entry_of(answer, Outcome.JOINED, sent_at=0.0, answered_at=0.0, times_sent=1)
    return msgspec.structs.replace(entry, answered_at=entry.begun_at + entry.seconds)
