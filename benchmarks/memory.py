"""Does the memory that the producer and Redis need depend on the size of the data set?

One job, in a process of its own, takes an `.npy` file through the identity model: a small file, and one that is twenty
times as large; by slices that workers read themselves, and through Redis. Then rows from a generator, few and five
times as many. A short job may end before the worst has happened, so what counts for the small data set is the worst of
three jobs; the worst of three others is the control.

`own` memory leaves out the pages of mapped files, which the kernel takes back whenever it wants; PSS and RSS have them
in them. What Redis may hold is the window and a fifth.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from benchmarks.harness import is_quiet
from benchmarks.memory_job import write_file
from benchmarks.meter import Memory, PeakMemory
from benchmarks.models import write_models
from benchmarks.report import Finding, at_most, control, report
from benchmarks.stage import ask, folder
from producer.scheduling import window
from tasks.protocol.messages import StoreName

MIB = 2**20
STORES: tuple[StoreName, ...] = ("slices", "redis")
ROW_BYTES = 4096
SMALL_JOBS = 3
GROWTH_AIM = 0.10
ABOVE_IMPORTS_MIB = 250
REDIS_AIM_MIB = 1.2 * window.MAX_BYTES / MIB


class Work(NamedTuple):
    """A data set: a file, or, without a path, a generator."""

    path: Path | None
    rows: int


class Measured(NamedTuple):
    """One job: memory before it, its peak, Redis's peak."""

    before: Memory
    peak: Memory
    redis_peak_bytes: int
    seconds: float


def question(quick: bool) -> bool:
    """Measure files by both stores, then generators; return whether the controls were quiet."""
    few, many = (5_120, 102_400) if quick else (51_200, 1_024_000)
    quiet = True
    # On a disk: files in memory would count as memory of who maps them.
    with folder(in_memory=False) as place:
        manifest = write_models(place)
        small, large = _file(place / "small.npy", few), _file(place / "large.npy", many)
        sizes = {"small": f"{few * ROW_BYTES / MIB:.0f} MiB", "large": f"{many * ROW_BYTES / MIB:.0f} MiB"}
        for store in STORES:
            quiet &= _compare(f"memory: a file, {store}", sizes, quick, manifest, small, large, store)
        few, many = (30_000, 300_000) if quick else (2_000_000, 10_000_000)
        sizes = {"small": f"{few} rows of 64 bytes", "large": f"{many} rows"}
        quiet &= _compare("memory: a generator", sizes, quick, manifest, Work(None, few), Work(None, many), None)
    return quiet


def _file(path: Path, rows: int) -> Work:
    write_file(path, rows, ROW_BYTES // 4)
    return Work(path, rows)


def _compare(
    question: str, sizes: dict[str, Any], quick: bool, manifest: Path, few: Work, many: Work, store: StoreName | None
) -> bool:
    all_small = [_measure(manifest, few, store) for _ in range(2 * SMALL_JOBS)]
    small, again = _worst(all_small[::2]), _worst(all_small[1::2])
    large = _measure(manifest, many, store)
    found = {"small": small, "small again": again, "large": large}
    same = small.peak.own / again.peak.own
    growths = {
        name: getattr(large.peak, kind) / getattr(small.peak, kind) - 1
        for name, kind in {"own": "own", "PSS": "pss", "RSS": "rss"}.items()
    }
    above = large.peak.above(large.before)
    findings = [
        *(
            Finding(
                f"{name}: peak own / PSS / RSS",
                f"{job.peak.own / MIB:.0f} / {job.peak.pss / MIB:.0f} / {job.peak.rss / MIB:.0f} MiB",
                note=f"{job.seconds:.1f} s",
            )
            for name, job in found.items()
        ),
        *(
            Finding(
                f"growth from small to large, {name}", f"{growth:+.1%}", f"<= {GROWTH_AIM:.0%}", growth <= GROWTH_AIM
            )
            for name, growth in growths.items()
        ),
        at_most("large, own, above bare imports", above.own / MIB, ABOVE_IMPORTS_MIB, "MiB"),
        at_most("large, PSS, above bare imports", above.pss / MIB, ABOVE_IMPORTS_MIB, "MiB"),
        at_most("large, Redis's peak", large.redis_peak_bytes / MIB, REDIS_AIM_MIB, "MiB"),
        control("control: small twice, own", same),
    ]
    measured = {
        name: {**job._asdict(), "before": vars(job.before), "peak": vars(job.peak)} for name, job in found.items()
    }
    report(question, sizes, findings, void=not is_quiet(same), quick=quick, measured=measured)
    return is_quiet(same)


def _worst(jobs: list[Measured]) -> Measured:
    return max(jobs, key=lambda job: job.peak.own)


def _measure(manifest: Path, work: Work, store: StoreName | None) -> Measured:
    told = {"models": str(manifest), "data": str(work.path) if work.path else None, "rows": work.rows, "store": store}
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.memory_job", json.dumps(told)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as job:
        told_back, go = cast("IO[str]", job.stdout), cast("IO[str]", job.stdin)
        told_back.readline()
        before = Memory.of(job.pid)
        sampling = PeakMemory(job.pid)
        print("begin", file=go, flush=True)
        line = told_back.readline()
        peak = sampling.stop()
    if not line or job.returncode:
        raise RuntimeError(f"the job of {work.rows} rows did not end well; see above")
    ended = json.loads(line)
    return Measured(before, peak, ended["redis_peak_bytes"], ended["seconds"])


if __name__ == "__main__":
    ask(question, __doc__)
