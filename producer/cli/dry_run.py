"""This module is `celeriac predict --dry-run`: one batch through every stage, and what the whole run would be like.

Client.try_out --> Preflight --rehearse--> lines, or JSON; no output is written, no job stays
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import click
import msgspec

from producer.client import Client
from producer.doctor.findings import mib
from producer.preflight.preflight import Preflight, Wanted
from producer.records.failures import failed_alone
from producer.sinks.dry_write import DryWrite, rehearse
from producer.sources import BatchSource, Source
from tasks.protocol.records import TensorSpec
from worker_config.errors import RowsFailedError


def check_dry(given: Mapping[str, object]) -> None:
    """Refuse options that make no sense with --dry-run.

    Raises:
        UsageError: of click's, if one of them was given.
    """
    for option, value in given.items():
        if value:
            raise click.UsageError(
                f"{option} makes no sense with --dry-run, which begins with the first row and writes nothing"
            )


def dry_run(
    system: AbstractContextManager[Client] | Client,
    names: list[str],
    source: Source | BatchSource,
    output: Path | None,
    wanted: Wanted,
    *,
    quiet: bool,
    as_json: bool,
) -> None:
    """Try the run out and tell how it would go.

    Args:
        system: the workers; one that is a context manager, as the embedded one, is started for this.
        names: the models.
        source: the data set.
        output: where its predictions would go; None for a job that is to be detached.
        wanted: as the run itself would ask for it.
        quiet: nothing for people.
        as_json: one object as the last line of stdout.

    Raises:
        CeleriacError: whatever the run would end with at its first batch.
    """
    with nullcontext(system) if isinstance(system, Client) else system as client:
        found = client.try_out(names, source, wanted)
    written = rehearse(output, found.probe, found.rows, found.failed_models) if output else None
    if not quiet:
        click.echo(lines(found, output, written))
    if as_json:
        click.echo(json.dumps(values(found, output, written)))
    if found.failed_models:
        raise RowsFailedError(f"{failed_alone(found.failed_models)}; the output would be complete with the others")


def lines(found: Preflight, output: Path | None, written: DryWrite | None) -> str:
    """What is known of the run, for people."""
    told = {
        "input": _input(found),
        "models": f"{', '.join(f'{name}@{digest[:8]}' for name, digest in found.models.items())}, in {_held(found)}",
        "batch": _batch(found),
        "store": f"{found.store}: {found.reason}",
        "chunks": _chunks(found),
        "rows": "; ".join(f"{name}: {text}" for name, text in found.dependent.items()),
        "time": "not known, nor are the rows" if found.seconds is None else f"about {_duration(found.seconds)}",
        "memory": _memory(found),
        "output": _output(output, written) if output and written else "",
        "dry run": "nothing was written, and no job left",
    }
    return "\n".join(f"{name:<8} {text}" for name, text in told.items() if text)


def values(found: Preflight, output: Path | None, written: DryWrite | None) -> dict[str, Any]:
    """The same, as plain values."""
    probe = found.probe
    return {
        "dry_run": True,
        "input": {
            "label": found.label,
            "rows": found.rows,
            "row_bytes": found.row_bytes,
            "columns": msgspec.to_builtins(found.inputs),
        },
        "models": found.models,
        "dependent": found.dependent,
        "failed_models": {name: msgspec.to_builtins(record) for name, record in found.failed_models.items()},
        "slots": found.slots,
        "workers": found.workers,
        "batch": {
            "rows": probe.stop - probe.start,
            "failed": probe.failed_rows,
            "skipped": probe.dropped_rows,
            "nonfinite_inputs": probe.nonfinite[0],
            "nonfinite_outputs": probe.nonfinite[1],
            "seconds": found.probe_seconds,
            "outputs": msgspec.to_builtins(found.outputs),
            "output_row_bytes": found.output_row_bytes,
        },
        "store": found.store,
        "reason": found.reason,
        "reply": found.reply,
        "chunk_rows": found.chunk_rows,
        "chunks": found.chunks,
        "seconds": found.seconds,
        "in_flight_bytes": found.in_flight_bytes,
        "spool_free_bytes": found.spool_free,
        "detached": _detached_values(found) if output is None else None,
        "output": os.path.realpath(output) if output else None,
        "output_bytes": written and written.bytes,
        "free_bytes": written and written.free,
    }


def _detached_values(found: Preflight) -> dict[str, Any]:
    fits = None if found.detached_bytes is None else found.detached_bytes <= found.detached_limit
    return {"bytes": found.detached_bytes, "limit_bytes": found.detached_limit, "fits": fits}


def _input(found: Preflight) -> str:
    rows = "rows not counted" if found.rows is None else f"{found.rows:,} rows"
    return f"{found.label}: {rows}, {_specs(found.inputs)}, {found.row_bytes:,.0f} bytes each"


def _specs(specs: list[TensorSpec]) -> str:
    return ", ".join(str(spec).strip() for spec in specs)


def _held(found: Preflight) -> str:
    return f"{_count(found.slots, 'slot')} of {_count(found.workers, 'worker')}"


def _batch(found: Preflight) -> str:
    probe = found.probe
    failed = f", {probe.failed_rows} failed" if probe.failed_rows else ""
    dropped = f", {probe.dropped_rows} left out by preprocess" if probe.dropped_rows else ""
    rows = _count(probe.stop - probe.start, "row")
    odd = f", {max(probe.nonfinite)} with a NaN or an infinity" if any(probe.nonfinite) else ""
    return f"{rows} in {found.probe_seconds:.3f} s{failed}{dropped}{odd}: {_specs(found.outputs)}"


def _chunks(found: Preflight) -> str:
    count = "" if found.chunks is None else f", about {found.chunks:,} in all"
    return f"{_count(found.chunk_rows, 'row')} to begin with{count}"


def _memory(found: Preflight) -> str:
    if found.detached_limit:
        needed = "what its rows need is not known" if found.detached_bytes is None else f"{mib(found.detached_bytes)}"
        return f"{needed} in Redis, of {mib(found.detached_limit)} that a detached job may keep"
    told = f"about {mib(found.in_flight_bytes)} at a time in "
    if found.spool_free is None:
        return f"{told}Redis"
    full = "; Redis takes what does not fit" if found.in_flight_bytes > found.spool_free else ""
    return f"{told}the spool folder, which has {mib(found.spool_free)} free{full}"


def _output(output: Path, written: DryWrite) -> str:
    size = "size not known" if written.bytes is None else f"about {mib(written.bytes)}"
    small = ", too little" if written.bytes is not None and written.bytes > written.free else ""
    return f"{output}: {size}, {mib(written.free)} free there{small}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7_200 else f"{seconds / 3_600:.1f} h"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
