"""What became of a job: the verdict, the ledger, slowest chunks, where it ran."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from producer.records.job_store import JobState
from producer.records.timeline import Entry
from producer.records.timeline_store import SERVER
from producer.report.gather import JobFacts
from producer.report.timeline_lanes import short_names
from tasks.protocol.records import ModelInfo

Rows = list[Sequence[str]]

# The client, not the server.
_PYTHON = {"redis": "redis-py"}
# What follows from what, where it was noticed at once.
_CAUSES_FIRST = ("slot gone", "came back", "rows failed", "duplicate", "sent again", "slot came")

_COUNTS = {
    "rows": "read from the data set",
    "predicted": "have a prediction",
    "failed": "have a failure record instead",
    "skipped": "left out on purpose, or not run any more",
    "written": "predicted rows that the caller had taken by then",
    "resumed": "of all these, by an earlier run",
    "nonfinite_inputs": "predicted rows of which a model took a NaN or an infinity",
    "nonfinite_outputs": "predicted rows of which a model or its function gave one",
    "chunks_sent": "chunks sent for the first time",
    "chunks_answered": "chunks answered",
    "chunks_sent_again": "times that a chunk was sent once more",
    "duplicates": "second answers, dropped",
    "duplicates_differing": "of these, not equal to the first to the bit",
    "damaged": "damaged on their way, and sent again",
}


def verdict(facts: JobFacts) -> str:
    """One line: how many rows in which time, how it ended, and what slots did."""
    ledger, seconds = facts.record.ledger, seconds_of(facts)
    predicted, failed = ledger.get("predicted", 0), ledger.get("failed", 0)
    done = predicted - ledger.get("resumed", 0)
    all_rows = "?" if facts.record.rows is None else f"{facts.record.rows:,}"
    rate = f" ({done / seconds:,.0f} rows per second)" if seconds > 0 and done > 0 else ""
    rows = f"{predicted:,} of {all_rows} rows predicted in {seconds:,.2f} s{rate}"
    if facts.state is JobState.DONE and not failed and predicted == ledger.get("rows"):
        rows = f"{predicted:,} rows in {seconds:,.2f} s{rate}, all predicted"
    elif facts.state is JobState.RUNNING:
        rows = f"still running: {rows} so far"
    failures = f", {failed:,} failed" if failed else ""
    ended = {JobState.FAILED: "; the job failed", JobState.CANCELLED: "; the job was cancelled"}.get(facts.state, "")
    return f"{rows}{failures}{ended}{_busy(facts)}"


def seconds_of(facts: JobFacts) -> float:
    """From the job's submission to its end, or to its last report."""
    return max(0.0, facts.record.updated_at - facts.record.submitted_at)


def slots_of(facts: JobFacts) -> int:
    """How many slots worked for it, as far as is known."""
    return sum(facts.summary.slots.values())


def busy_share(facts: JobFacts) -> float | None:
    """The share of the slots' seconds in which they did not wait; None where nobody knows."""
    total = sum(facts.record.stages.values())
    return 1 - facts.record.stages.get("wait", 0.0) / total if total else None


def ledger_rows(facts: JobFacts) -> Rows:
    """Name, value and meaning of each count."""
    ledger = facts.record.ledger
    return [(name.replace("_", " "), f"{ledger[name]:,}", text) for name, text in _COUNTS.items() if name in ledger]


def balance(facts: JobFacts) -> str:
    """Whether the ledger adds up, with its numbers."""
    rows, *parts = (facts.record.ledger.get(name, 0) for name in ("rows", "predicted", "failed", "skipped"))
    words = " + ".join(
        f"{count:,} {name}" for count, name in zip(parts, ("predicted", "failed", "skipped"), strict=True)
    )
    if rows == sum(parts):
        return f"It adds up: {rows:,} rows = {words}."
    if facts.state is JobState.RUNNING:
        return f"{rows:,} rows so far known, {words}; the others are on their way."
    return f"It does not add up: {rows:,} rows, but {words}."


def slowest_rows(facts: JobFacts) -> Rows:
    """The slowest chunks: which, where, when, how long, and at what."""
    names = short_names({entry.slot for entry in facts.summary.slowest})
    return [_slow(entry, names, facts.summary.began_at) for entry in facts.summary.slowest]


def event_rows(facts: JobFacts, most: int) -> Rows:
    """What was out of the ordinary: when, what, where, why."""
    names = short_names({event.slot for event in facts.summary.events if event.slot})
    events = sorted(
        facts.summary.events, key=lambda event: (round(event.at, 2), event.index or 0, _CAUSES_FIRST.index(event.kind))
    )
    return [
        (
            f"{event.at - facts.summary.began_at:.2f}",
            event.kind,
            "" if event.index is None else str(event.index),
            names.get(event.slot, ""),
            event.text,
        )
        for event in events[:most]
    ]


def job_rows(facts: JobFacts) -> Rows:
    """The job itself, and its producer."""
    record = facts.record
    rows: Rows = [
        ("job", record.id),
        ("state", facts.state.value),
        ("input", f"{record.input}, {'?' if record.rows is None else f'{record.rows:,}'} rows"),
        ("began", _moment(record.submitted_at)),
        ("last word" if facts.state is JobState.RUNNING else "ended", _moment(record.updated_at)),
        ("seconds", f"{seconds_of(facts):,.3f}"),
        ("producer", record.producer),
    ]
    versions = dict(facts.summary.versions)
    server = versions.pop(SERVER, "")
    rows += [("its versions", _versions(versions))] if versions else []
    rows += [(SERVER, server)] if server else []
    return rows


def setting_rows(facts: JobFacts) -> Rows:
    """How the job was done."""
    if not facts.summary.settings:
        return [("store", facts.record.store)]
    rows: Rows = list(facts.summary.settings.items())
    if sizes := [entry.stop - entry.start for entry in facts.entries]:
        rows.append(("rows of a chunk", f"{min(sizes):,} to {max(sizes):,}"))
    return rows


def model_rows(facts: JobFacts) -> Rows:
    """Each model: version, digest, and how it is run."""
    if not facts.summary.models:
        digests = facts.record.plan.models if facts.record.plan else []
        known: Rows = [(model.name, model.digest, "", "", "") for model in digests]
        return known or [(*model.partition("@")[::2], "", "", "") for model in facts.record.models]
    return [_model(info) for info in facts.summary.models]


def worker_rows(facts: JobFacts) -> Rows:
    """Each worker: its slots, and what it reports of itself."""
    rows: Rows = []
    for worker, host in facts.summary.workers.items():
        slots = str(facts.summary.slots.get(worker, 0))
        if host is None:
            rows.append((worker, slots, "", "", "it has not told"))
            continue
        machine = f"{host.cores} cores, {len(host.gpus)} GPUs"
        rows.append((worker, slots, machine, f"{host.threads or 'chosen by TensorFlow'}", _versions(host.versions)))
    return rows


def _busy(facts: JobFacts) -> str:
    share, slots = busy_share(facts), slots_of(facts)
    if share is None:
        return ""
    work = {stage: seconds for stage, seconds in facts.record.stages.items() if stage != "wait" and seconds > 0}
    most = f", most of it {max(work, key=lambda stage: work[stage])}" if work else ""
    who = f"{slots} slot{'s' * (slots != 1)}" if slots else "slots"
    return f"; {who} busy {100 * share:.0f} % of the time{most}"


def _slow(entry: Entry, names: dict[str, str], began_at: float) -> Sequence[str]:
    own = {stage: seconds for stage, seconds in entry.stages.items() if stage not in ("wait", "answer")}
    most = max(own, key=lambda stage: own[stage]) if own else ""
    queued = entry.answered_at - entry.sent_at - entry.seconds if entry.sent_at else None
    return (
        str(entry.index),
        f"{entry.start:,}-{entry.stop:,}",
        names[entry.slot],
        f"{entry.answered_at - began_at:.2f}",
        f"{entry.seconds:.3f}",
        f"{most} {own[most]:.3f}" if most else "",
        "?" if queued is None else f"{max(0.0, queued):.3f}",
        str(entry.times_sent),
    )


def _model(info: ModelInfo) -> Sequence[str]:
    around = [f"{label} {name}" for label, name in (("from", info.preprocess), ("by", info.function)) if name]
    around += [f"to {info.postprocess}"] if info.postprocess else []
    notes = "; ".join(filter(None, [*around, info.note, info.dependent]))
    return info.name, info.digest, info.executor, str(info.batch_rows), notes


def _versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{_PYTHON.get(name, name)} {version}" for name, version in versions.items())


def _moment(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at))
