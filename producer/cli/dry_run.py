"""`celeriac predict --dry-run`: one batch through every stage, and what the whole run would be like.

PredictRequest --Client.try_out--> Preflight --rehearse--> lines, or JSON; no output is written, no job stays
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import msgspec

from producer.cli.reporting import ModelFailedAloneError
from producer.cli.request import PredictRequest, open_data, open_system
from producer.doctor.findings import count_of, mib
from producer.outputs.predict_to_sink import most_failed
from producer.outputs.run_options import kept_columns
from producer.preflight.dry_write import DryWrite, rehearse
from producer.preflight.preflight import Preflight
from producer.records.failures import failed_alone
from producer.scheduling.error_budget import ErrorBudget
from producer.scheduling.job_options import JobOptions
from producer.sinks import can_drop, check_output, output_path
from producer.sources import open_source
from tasks.protocol.messages import PartsReply
from tasks.protocol.records import TensorSpec

# Attributes of `Preflight` that `--json` gives as they are.
_FORECAST = (
    *("models", "dependent", "slots", "workers", "store", "reason", "reply"),
    *("chunk_rows", "chunks", "seconds", "in_flight_bytes"),
)


def dry_run(request: PredictRequest, output: Path, force: bool, *, in_parts: bool) -> None:
    """Try out a run that would write `output`, and report how it would go; raise what it would at its first batch."""
    source, _ = open_data(request)
    check_output(output, force, resume=False, in_parts=in_parts)
    run = request.run
    kept_columns(source, run, request.models, output)  # refuses what the run would
    # A share of rows whose number nobody knows is no limit.
    max_failed = None if source.rows is None and isinstance(run.max_failed, str) else run.max_failed
    # Of the first rows alone: as many of them may fail as of all.
    policy = ErrorBudget(
        request.on_error or "raise", most_failed(max_failed, source.rows or 0), on_nonfinite=run.on_nonfinite
    )
    together = in_parts or not can_drop(output)
    options = JobOptions(
        run.chunk_rows,
        store=run.store,
        compression=run.compression,
        fail_together=together,
        policy=policy,
        # As deep as the folder in which workers would write, which they are not asked to.
        write_to=PartsReply(f"{output_path(output)}/parts") if in_parts else None,
    )
    with open_system(request) as system, system.start() as client:
        preflight = client.try_out(request.models, source, options)
    _report(request, preflight, output)


def dry_run_detached(request: PredictRequest, options: JobOptions) -> None:
    """The same of a job that would be left with the broker."""
    source = open_source(request.input_path, **request.input_options)
    with request.connect() as client:
        preflight = client.try_out(request.models, source, options)
    _report(request, preflight, None)


def _report(request: PredictRequest, preflight: Preflight, output: Path | None) -> None:
    written = rehearse(output, preflight.probe, preflight.rows, preflight.failed_models) if output else None
    if not request.run.quiet:
        click.echo(lines(preflight, output, written))
    if request.as_json:
        click.echo(json.dumps(values(preflight, output, written)))
    if preflight.failed_models:
        raise ModelFailedAloneError(
            f"{failed_alone(preflight.failed_models)}; the output would be complete with the others"
        )


def lines(preflight: Preflight, output: Path | None, written: DryWrite | None) -> str:
    """What is known of the run, for people."""
    models = ", ".join(f"{name}@{digest[:8]}" for name, digest in preflight.models.items())
    parts = {
        "input": _input(preflight),
        "models": f"{models}, in {count_of(preflight.slots, 'slot')} of {count_of(preflight.workers, 'worker')}",
        "batch": _batch(preflight),
        "store": f"{preflight.store}: {preflight.reason}",
        "chunks": _chunks(preflight),
        "rows": "; ".join(f"{name}: {text}" for name, text in preflight.dependent.items()),
        "time": "not known, nor are the rows" if preflight.seconds is None else f"about {_duration(preflight.seconds)}",
        "memory": _memory(preflight),
        "output": _output(output, written) if output and written else "",
        "dry run": "nothing was written, and no job left",
    }
    return "\n".join(f"{name:<8} {text}" for name, text in parts.items() if text)


def values(preflight: Preflight, output: Path | None, written: DryWrite | None) -> dict[str, Any]:
    """The same, as plain values."""
    probe = preflight.probe
    return {
        "dry_run": True,
        "input": {
            "label": preflight.label,
            "rows": preflight.rows,
            "row_bytes": preflight.row_bytes,
            "columns": msgspec.to_builtins(preflight.inputs),
        },
        **{name: getattr(preflight, name) for name in _FORECAST},
        "failed_models": {name: msgspec.to_builtins(record) for name, record in preflight.failed_models.items()},
        "batch": {
            "rows": probe.stop - probe.start,
            "failed": probe.failed_rows,
            "skipped": probe.dropped_rows,
            "nonfinite_inputs": probe.nonfinite[0],
            "nonfinite_outputs": probe.nonfinite[1],
            "seconds": preflight.probe_seconds,
            "outputs": msgspec.to_builtins(preflight.outputs),
            "output_row_bytes": preflight.output_row_bytes,
        },
        "spool_free_bytes": preflight.spool_free,
        "detached": _detached_values(preflight) if output is None else None,
        "output": str(output_path(output)) if output else None,
        "output_bytes": written and written.bytes,
        "free_bytes": written and written.free,
    }


def _detached_values(preflight: Preflight) -> dict[str, Any]:
    fits = None if preflight.detached_bytes is None else preflight.detached_bytes <= preflight.detached_limit
    return {"bytes": preflight.detached_bytes, "limit_bytes": preflight.detached_limit, "fits": fits}


def _input(preflight: Preflight) -> str:
    rows = "rows not counted" if preflight.rows is None else f"{preflight.rows:,} rows"
    return f"{preflight.label}: {rows}, {_specs(preflight.inputs)}, {preflight.row_bytes:,.0f} bytes each"


def _specs(specs: list[TensorSpec]) -> str:
    return ", ".join(str(spec).strip() for spec in specs)


def _batch(preflight: Preflight) -> str:
    probe = preflight.probe
    failed = f", {probe.failed_rows} failed" if probe.failed_rows else ""
    dropped = f", {probe.dropped_rows} left out by preprocess" if probe.dropped_rows else ""
    rows = count_of(probe.stop - probe.start, "row")
    odd = f", {max(probe.nonfinite)} with a NaN or an infinity" if any(probe.nonfinite) else ""
    return f"{rows} in {preflight.probe_seconds:.3f} s{failed}{dropped}{odd}: {_specs(preflight.outputs)}"


def _chunks(preflight: Preflight) -> str:
    count = "" if preflight.chunks is None else f", about {preflight.chunks:,} in all"
    return f"{count_of(preflight.chunk_rows, 'row')} to begin with{count}"


def _memory(preflight: Preflight) -> str:
    if preflight.detached_limit:
        size = preflight.detached_bytes
        needed = "what its rows need is not known" if size is None else mib(size)
        return f"{needed} in Redis, of {mib(preflight.detached_limit)} that a detached job may keep"
    amount = f"about {mib(preflight.in_flight_bytes)} at a time in "
    if preflight.spool_free is None:
        return f"{amount}{'the spool' if preflight.store == 'files' else 'Redis'}"
    full = "; Redis takes what does not fit" if preflight.in_flight_bytes > preflight.spool_free else ""
    return f"{amount}the spool folder, which has {mib(preflight.spool_free)} free{full}"


def _output(output: Path, written: DryWrite) -> str:
    size = "size not known" if written.bytes is None else f"about {mib(written.bytes)}"
    small = ", too little" if written.bytes is not None and written.bytes > written.free else ""
    return f"{output}: {size}, {mib(written.free)} free there{small}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7_200 else f"{seconds / 3_600:.1f} h"
