"""This module shows models and jobs to people: aligned columns, and the same as plain values for `--json`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from producer.job_store import JobState
from tasks.messages import JobRecord, ModelInfo


def models_table(infos: Mapping[str, ModelInfo], slots: Mapping[str, int]) -> str:
    """One line for each input and output of each model; `slots` counts who holds it, where that is known."""
    if not infos:
        return "no models: no worker is up"
    header = ["MODEL", "VERSION", "INPUTS", "OUTPUTS", "BATCH", "MEMORY", "SLOTS"]
    rows = []
    for name, info in infos.items():
        inputs = [f"from {info.preprocess}"] * bool(info.preprocess) + list(map(str, info.inputs))
        outputs = list(map(str, info.outputs)) + [f"to {info.postprocess}"] * bool(info.postprocess)
        for line in range(max(len(inputs), len(outputs))):
            rest = [inputs[line : line + 1], outputs[line : line + 1]]
            tensors = ["".join(text) for text in rest]
            if line:
                rows.append(["", "", *tensors, "", "", ""])
                continue
            memory = f"{info.memory_bytes / 2**20:.0f} MiB"
            rows.append([name, info.digest[:8], *tensors, str(info.batch_rows), memory, str(slots.get(name, "-"))])
    return _columns([header, *rows])


def models_values(infos: Mapping[str, ModelInfo], slots: Mapping[str, int]) -> dict[str, Any]:
    """The same, as plain values."""
    return {"models": [{**msgspec.to_builtins(info), "slots": slots.get(name)} for name, info in infos.items()]}


def jobs_table(jobs: Sequence[tuple[JobState, JobRecord]]) -> str:
    """One line for each job, the newest last."""
    if not jobs:
        return "no jobs"
    header = ["JOB", "STATE", "MODELS", "INPUT", "PREDICTED", "OF", "SUBMITTED"]
    rows = [
        [
            record.id,
            state.value,
            ",".join(record.models),
            record.input,
            str(record.ledger.get("predicted", 0)),
            _rows(record),
            f"{_ago(record.submitted_at)} ago",
        ]
        for state, record in jobs
    ]
    return _columns([header, *rows])


def job_lines(state: JobState, record: JobRecord) -> str:
    """All that is known of one job."""
    lines = {
        "job": record.id,
        "state": state.value,
        "models": ", ".join(record.models),
        "input": f"{record.input}, {_rows(record)} rows, by way of {record.store}",
        "submitted": f"{_ago(record.submitted_at)} ago, by {record.producer}",
        "seconds": f"{record.updated_at - record.submitted_at:.1f}",
        "ledger": ", ".join(f"{name} {count}" for name, count in record.ledger.items()),
        "error": record.error,
    }
    return "\n".join(f"{name:<10} {text}" for name, text in lines.items() if text)


def job_values(state: JobState, record: JobRecord) -> dict[str, Any]:
    """The same, as plain values."""
    return {"job": record.id, "state": state.value, **msgspec.to_builtins(record)}


def _rows(record: JobRecord) -> str:
    return "?" if record.rows is None else str(record.rows)


def _ago(since: float) -> str:
    seconds = max(0, round(time.time() - since))
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def _columns(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
