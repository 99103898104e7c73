"""Writes what was measured: one line of JSON with all there is to know, one line of a table for people."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import Any

import psutil

from benchmarks.harness import QUIET, Comparison, Interval, is_quiet
from producer.embedded.redis_server import find_redis_server

RESULTS = Path(__file__).parent / "results"
_PACKAGES = ("numpy", "tensorflow", "keras", "celery", "kombu", "redis", "hiredis", "celeriac")


@dataclass(frozen=True)
class Finding:
    """One figure, and what it should be.

    Attributes:
        what: the figure, for people.
        value: as it is shown.
        aim: what it should be, for people.
        reached: whether it is; None where there is no aim.
        note: what else there is to say.
    """

    what: str
    value: str
    aim: str = ""
    reached: bool | None = None
    note: str = ""


def at_least(what: str, ratio: Interval, aim: float) -> Finding:
    """A ratio that should be large."""
    return Finding(what, str(ratio), f">= {aim:.2f}", ratio.median >= aim)


def at_most(what: str, value: float, aim: float, unit: str) -> Finding:
    """A number that should be small."""
    return Finding(what, f"{value:.1f} {unit}", f"<= {aim:.0f} {unit}", value <= aim)


def control(what: str, ratio: Interval | float) -> Finding:
    """The same thing against itself, which should be 1."""
    value, middle = (f"{ratio:.2f}", ratio) if isinstance(ratio, float) else (str(ratio), ratio.median)
    return Finding(what, value, f"1.00 +/- {QUIET:.2f}", is_quiet(middle))


def report(
    question: str, sizes: dict[str, Any], findings: list[Finding], *, void: bool, quick: bool, measured: dict[str, Any]
) -> None:
    """Append the JSON line, print the table."""
    record = {
        "question": question,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "void": void,
        "quick": quick,
        "sizes": sizes,
        "findings": [vars(finding) for finding in findings],
        "measured": measured,
        **where(),
    }
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / f"{question.split(':')[0]}.jsonl").open("a") as lines:
        print(json.dumps(record), file=lines)
    print(f"\n{question}  ({', '.join(f'{name} {value}' for name, value in sizes.items())})")
    if void:
        print("  VOID: the machine was not quiet, the same arm came out different from itself")
    width = max(len(finding.what) for finding in findings)
    for finding in findings:
        verdict = {True: "reached", False: "MISSED", None: finding.note}[finding.reached]
        print(f"  {finding.what:{width}}  {finding.value:20}  {finding.aim:14}  {verdict}".rstrip(), flush=True)


def report_comparison(
    question: str,
    comparison: Comparison,
    rows: int,
    sizes: dict[str, Any],
    findings: list[Finding],
    *,
    quick: bool,
    measured: dict[str, Any] | None = None,
) -> bool:
    """Report findings of a comparison, after each arm's rate and the control; return whether they count."""
    rates = [
        Finding(
            f"{name}, rows/s",
            f"{rows / comparison.median_seconds(name):,.0f}",
            note=f"{fmean(comparison.cpu_seconds[name]):.2f} processor seconds",
        )
        for name in comparison.seconds
    ]
    everything = {**vars(comparison), **(measured or {})}
    blocks = len(comparison.control_seconds)
    findings = [*rates, *findings, control("control: the same twice", comparison.control)]
    sizes = {"rows": rows, **sizes, "blocks": blocks, "run again": comparison.disturbed_blocks}
    report(question, sizes, findings, void=comparison.void, quick=quick, measured=everything)
    return not comparison.void


@cache
def where() -> dict[str, Any]:
    """Commit, versions, machine."""
    return {
        "commit": _output("git", "rev-parse", "HEAD"),
        "changed_since": bool(_output("git", "status", "--porcelain", "--untracked-files=no")),
        "versions": versions(),
        "machine": {
            "cpu": cpu_model(),
            "cores": len(os.sched_getaffinity(0)),
            "memory_bytes": psutil.virtual_memory().total,
            "system": platform.platform(),
        },
    }


def versions() -> dict[str, str]:
    """Of Python, of packages, and of Redis."""
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in _PACKAGES},
        "redis-server": _output(find_redis_server(), "--version"),
    }


def cpu_model() -> str:
    """As the system calls it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _output(*command: str) -> str:
    found = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parent)
    return found.stdout.strip()
