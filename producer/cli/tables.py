"""Records of jobs --> aligned columns for people, and the same as plain values for `--json`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import msgspec

from producer.records.failures import failed_alone
from producer.records.job_store import JobState
from producer.records.progress import is_silent
from producer.records.turns import Turn
from producer.scheduling.priority import priority_name
from tasks.protocol.messages import FailureRecord
from tasks.protocol.records import JobRecord


def jobs_table(jobs: Sequence[tuple[JobState, JobRecord]], turns: Mapping[str, Turn] = MappingProxyType({})) -> str:
    """One line for each job, in their order; `turns` has those that share a queue now."""
    if not jobs:
        return "no jobs"
    header = ["JOB", "STATE", "MODELS", "INPUT", "PREDICTED", "FAILED", "OF", "PRIORITY", "SHARE", "AHEAD", "SUBMITTED"]
    rows = [
        [
            record.id,
            state.value,
            ",".join(record.models),
            record.input,
            str(record.ledger.get("predicted", 0)),
            str(record.ledger.get("failed", 0)),
            _rows(record),
            priority_name(record.weight),
            *_turn(turns.get(record.id)),
            f"{_ago(record.submitted_at)} ago",
        ]
        for state, record in jobs
    ]
    return columns([header, *rows])


def job_lines(state: JobState, record: JobRecord, slots: int, expires_at: float, coming: str = "") -> str:
    """All that is known of one job; `slots` can run it now, and a worker is `coming` that will, in words."""
    lines = {
        "job": record.id,
        "state": state.value,
        "rows": f"{predicted_of(record)} predicted{failed_of(record)}",
        "models": ", ".join(record.models),
        "input": f"{record.input}, {_rows(record)} rows, by way of {record.store}",
        "submitted": f"{_ago(record.submitted_at)} ago, by {record.producer}{', detached' if record.plan else ''}",
        "output": f"{output}/, which workers write" if (output := output_of(record)) else "",
        "priority": priority_name(record.weight),
        "seconds": f"{record.updated_at - record.submitted_at:.1f}",
        "ledger": ", ".join(f"{name} {count}" for name, count in _counts(record).items()),
        "stages": _shares(record.stages),
        "error": record.error,
        "missing": record.missing,
        "waits": record.waits,
        "failed": failed_alone(record.failed_models) if record.failed_models else "",
        "dependent": "; ".join(f"{name}: {text}" for name, text in record.dependent.items()),
        "differed": differed_of(record),
        "slots": f"{slots} can run it now" if state is JobState.RUNNING else "",
        "kept": f"until {moment(expires_at)}, if nothing happens to it before",
        "next": _next(state, record, slots, coming),
    }
    return "\n".join(f"{name:<10} {text}" for name, text in lines.items() if text)


def job_values(state: JobState, record: JobRecord, **more: object) -> dict[str, Any]:
    """The same, as plain values."""
    values = msgspec.to_builtins(record)
    detached, output = values.pop("plan") is not None, output_of(record)
    priority = priority_name(values.pop("weight"))
    del values["unsent"]
    told = {"detached": detached, "priority": priority, "output": output, "ledger": _counts(record)}
    return {"job": record.id, "state": state.value, **values, **told, **more}


def _counts(record: JobRecord) -> dict[str, int]:
    """The ledger without what is written: who takes the outputs knows that, and not before the record is complete."""
    return {name: count for name, count in record.ledger.items() if name != "written"}


def output_of(record: JobRecord) -> str | None:
    """Where a detached job has its own output; None of all others."""
    return record.plan.output.path if record.plan and record.plan.output else None


def how_to_fetch(record: JobRecord) -> str:
    """The command that gives a detached job's predictions."""
    return f"celeriac fetch {record.id}{'' if output_of(record) else ' -o OUTPUT'}"


def turn_values(turn: Turn | None) -> dict[str, Any]:
    """Where a job stands in its queue; nothing of one that shares none."""
    return {"share": turn.share, "ahead": turn.ahead} if turn else {"share": None, "ahead": None}


def failures_table(job: JobRecord, records: Sequence[FailureRecord]) -> str:
    """One line for each record; the model is told where there are several."""
    if not records:
        return f"no failures of job {job.id} are known"
    with_model = any(record.model for record in records)
    rows = [["ROW", "STAGE", "TYPE", *["MODEL"] * with_model, "TEXT"]]
    for record in records:
        row = record.rows.split()[1]
        text = " ".join(f"{record.value and record.value + ': '}{record.text}".split())
        rows.append([row, record.stage, record.type, *[record.model or "-"] * with_model, text])
    return columns(rows)


def failures_values(state: JobState, job: JobRecord, records: Sequence[FailureRecord]) -> dict[str, Any]:
    """The same, as plain values."""
    failed = [msgspec.to_builtins(record) for record in records]
    return {
        "job": job.id,
        "state": state.value,
        "rows_failed": job.ledger.get("failed", 0),
        "failed_models": list(job.failed_models),
        "failures": failed,
    }


def failed_of(record: JobRecord) -> str:
    """How many rows failed, and what tells more; empty where none did."""
    failed = record.ledger.get("failed", 0)
    return f", {failed} failed (see `celeriac failures {record.id}`)" if failed else ""


def differed_of(record: JobRecord) -> str:
    """Which executors gave other outputs than their models; empty where none did."""
    return "; ".join(f"model {name}: {one}" for name, one in record.differed.items())


def predicted_of(record: JobRecord) -> str:
    """How many rows have a prediction, of how many."""
    return f"{record.ledger.get('predicted', 0)} of {_rows(record)}"


def in_state(state: JobState) -> str:
    """That a job is in a state, as a verb."""
    return f"{'has' if state is JobState.FAILED else 'is'} {state}"


def silence(state: JobState, record: JobRecord) -> str:
    """What to say of a producer that gives no sign of life; empty where it does, and where none is needed."""
    if not is_silent(state, record):
        return ""
    return (
        f"its producer {record.producer} has given no sign of life for {_ago(record.updated_at)}; if it is gone, so is "
        f"the job: end it with `celeriac cancel {record.id}` and submit it again"
    )


def moment(at: float) -> str:
    """A time of this machine's clock, to the minute."""
    return time.strftime("%Y-%m-%d %H:%M %Z", time.localtime(at))


def _next(state: JobState, record: JobRecord, slots: int, coming: str) -> str:
    if silent := silence(state, record):
        return silent
    if state is JobState.RUNNING and not slots:
        return coming or f"start a worker that holds {' and '.join(record.models)}"
    if record.plan and state in (JobState.RUNNING, JobState.DONE):
        return f"{how_to_fetch(record)}{'' if state is JobState.DONE else ', which waits for its end'}"
    return ""


def _shares(stages: Mapping[str, float]) -> str:
    """What slots did, in percent, most of it first; stages that took no time to speak of are left out."""
    total = sum(stages.values())
    shares = {stage: round(100 * seconds / total) for stage, seconds in stages.items()} if total else {}
    return ", ".join(f"{stage} {share} %" for stage, share in sorted(shares.items(), key=lambda one: -one[1]) if share)


def _turn(turn: Turn | None) -> list[str]:
    return [f"{100 * turn.share:.0f} %", "-" if turn.ahead is None else str(turn.ahead)] if turn else ["-", "-"]


def _rows(record: JobRecord) -> str:
    return "?" if record.rows is None else str(record.rows)


def _ago(since: float) -> str:
    seconds = max(0, round(time.time() - since))
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as lines; each column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
