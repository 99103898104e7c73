"""`celeriac plan`: rows, slots and what a row takes --simulate--> how long, what limits, what to change."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import click

from producer.capacity.costs import PACKAGED, read_costs
from producer.capacity.forecast import Forecast, forecast
from producer.capacity.scenario import MOST, Failure, Scenario
from producer.cli.options import json_option
from worker_config.errors import UsageError

# As chunks of real models differ.
VARIATION = 0.1
# One way, within a data centre.
NETWORK_MS = 0.1
# A row that takes nothing has no rate.
LEAST_ROW_SECONDS = 1e-9


@click.command()
@click.option("--rows", type=int, required=True, help="Rows of the data set.")
@click.option("--slots", type=int, required=True, help="Slots of all workers together.")
@click.option("--row-seconds", type=float, metavar="S", help="What a row takes in one slot; or one of the next two.")
@click.option("--rows-per-second", type=float, metavar="R", help="Rows of one slot in a second.")
@click.option("--chunk-seconds", type=float, metavar="S", help="What a chunk of --chunk-rows takes in one slot.")
@click.option(
    "--workers", type=int, default=1, show_default=True, help="Workers that share the slots, each on its host."
)
@click.option("--producers", type=int, default=1, show_default=True, help="Jobs that share the rows, each on its host.")
@click.option("--brokers", type=int, default=1, show_default=True, help="Redis servers that share the chunks.")
@click.option("--chunk-rows", type=int, metavar="N", help="Rows of a chunk.  [default: as many as take 0.25 s]")
@click.option(
    "--row-bytes",
    type=float,
    default=0.0,
    metavar="N",
    help="Bytes of a row that goes through Redis.  [default: none, as workers read the rows in their files]",
)
@click.option(
    "--cores-per-host",
    type=float,
    metavar="N",
    help="Cores that a host's slots and its worker share.  [default: one for each process]",
)
@click.option("--one-host", is_flag=True, help="All processes are on one host, as without a broker.")
@click.option("--network-ms", type=float, help=f"From host to host, one way.  [default: {NETWORK_MS}]")
@click.option(
    "--fail",
    "fails",
    multiple=True,
    metavar="WHAT@P%",
    help="When P % are done a `worker` dies, for good, or a `broker`, for 10 s; `link@P%-Q%`: one worker is cut off.  "
    "Again for another one.",
)
@click.option(
    "--costs", type=click.Path(path_type=Path), default=PACKAGED, help="Costs of another machine, as measured there."
)
@json_option
def plan(
    rows: int,
    slots: int,
    row_seconds: float | None,
    rows_per_second: float | None,
    chunk_seconds: float | None,
    workers: int,
    producers: int,
    brokers: int,
    chunk_rows: int | None,
    row_bytes: float,
    cores_per_host: float | None,
    one_host: bool,
    network_ms: float | None,
    fails: tuple[str, ...],
    costs: Path,
    as_json: bool,
) -> None:
    """Tell how long a data set would take on so many slots, what would limit it, and what to change.

    It simulates the whole system by costs that were measured, and asks nobody. Of a large data set the beginning is
    simulated; the rest goes on at its rate. docs/capacity.md says what it knows, and what it does not.
    """
    if one_host and network_ms is not None:
        raise UsageError("--network-ms is from host to host: leave it out with --one-host")
    scenario = Scenario(
        rows=rows,
        row_seconds=_row_seconds(row_seconds, rows_per_second, chunk_seconds, chunk_rows),
        slots=slots,
        workers=workers,
        producers=producers,
        brokers=brokers,
        chunk_rows=chunk_rows,
        row_bytes=row_bytes,
        cores_per_host=math.inf if cores_per_host is None else cores_per_host,
        one_host=one_host,
        variation=VARIATION,
        network_ms=0.0 if one_host else NETWORK_MS if network_ms is None else network_ms,
        failures=_failures(fails, workers, brokers),
    )
    found = forecast(scenario, read_costs(costs))
    click.echo(lines(found, scenario))
    if as_json:
        click.echo(json.dumps(asdict(found)))


def _row_seconds(
    row_seconds: float | None, rows_per_second: float | None, chunk_seconds: float | None, chunk_rows: int | None
) -> float:
    options = {
        "--row-seconds": row_seconds,
        "--rows-per-second": rows_per_second,
        "--chunk-seconds": chunk_seconds,
    }
    given = {name: value for name, value in options.items() if value is not None}
    if len(given) != 1:
        raise UsageError(f"give one of --row-seconds, --rows-per-second and --chunk-seconds, not {len(given)} of them")
    ((name, value),) = given.items()
    if chunk_seconds is not None and (chunk_rows is None or chunk_rows < 1):
        raise UsageError("--chunk-seconds are those of --chunk-rows: give how many rows a chunk has, 1 at least")
    if name == "--rows-per-second":
        seconds = 1 / value if value else math.inf
    else:
        seconds = value / (chunk_rows or 1) if name == "--chunk-seconds" else value
    if not LEAST_ROW_SECONDS <= seconds <= MOST["row_seconds"]:
        raise UsageError(
            f"{name} is {value:g}: a row must take {LEAST_ROW_SECONDS:g} to {MOST['row_seconds']:,.0f} s in a slot"
        )
    return seconds


def _failures(texts: Sequence[str], workers: int, brokers: int) -> list[Failure]:
    """Each of another worker, or broker, from the last one on: workers belong to brokers in turn."""
    failures: list[Failure] = []
    for text in texts:
        failure = _failure(text)
        kind, there = ("brokers", brokers) if failure.what == "broker" else ("workers", workers)
        before = sum((one.what == "broker") == (failure.what == "broker") for one in failures)
        if before >= there:
            raise UsageError(f"--fail is {text!r}: each is of others, and there are {there} {kind}; give more --{kind}")
        failures.append(replace(failure, worker=-1 - before))
    return failures


def _failure(text: str) -> Failure:
    number = r"(\d+(?:\.\d+)?)%"
    if (share := re.fullmatch(f"(worker|broker)@{number}", text)) and float(share[2]) < 100:
        return Failure("worker" if share[1] == "worker" else "broker", float(share[2]) / 100)
    if (shares := re.fullmatch(f"link@{number}-{number}", text)) and float(shares[1]) < float(shares[2]) <= 100:
        return Failure("link", float(shares[1]) / 100, float(shares[2]) / 100)
    raise UsageError(
        f"--fail is {text!r}: give worker@P% or broker@P%, with P less than 100, such as worker@30%, "
        "or link@P%-Q%, with Q more than P, and 100 at most"
    )


def lines(found: Forecast, scenario: Scenario) -> str:
    """The forecast, for people."""
    used = ", ".join(f"{kind} {share:.0%}" for kind, share in sorted(found.used.items(), key=lambda one: -one[1]))
    parts = {
        "time": f"about {_duration(found.seconds)}, {_rate(found.rows_per_second)} rows per second",
        "chunks": f"{found.chunks:,} of {found.chunk_rows:,} rows, {_duration(found.chunk_seconds)} each in a slot",
        "slots": f"{scenario.slots:,}, busy {found.slots_busy:.0%} of the time",
        "waiting": f"{_duration(found.wait_p50_seconds)} until a chunk has a slot, "
        f"{_duration(found.wait_p95_seconds)} for 95 %",
        "used": f"{used}; the busiest of each",
        "limit": found.limit,
        "change": "; ".join(found.advice),
    }
    if found.failure_seconds is not None:
        costs, again = _duration(max(0.0, found.failure_seconds)), f"{found.chunks_sent_again:,} chunks sent again"
        parts["failure"] = f"{' and '.join(map(_told, scenario.failures))}: costs {costs}, {again}"
    if found.simulated_rows < scenario.rows:
        parts["model"] = f"{found.simulated_rows:,} rows simulated, the rest at their rate"
    return "\n".join(f"{name:<8} {text}" for name, text in parts.items())


def _told(failure: Failure) -> str:
    if failure.what == "link":
        return f"a worker cut off from {failure.at * 100:g}% to {failure.until * 100:g}%"
    return f"a {failure.what} that dies at {failure.at * 100:g}%"


def _rate(each_second: float) -> str:
    return f"{each_second:,.0f}" if each_second >= 10 else f"{each_second:.3g}"


def _duration(seconds: float) -> str:
    if seconds < 0.01:
        return f"{seconds * 1e3:.2g} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    if seconds < 7_200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3_600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:,.1f} days"
