"""What does a chunk cost each kind of process, apart from what every second, slot and MiB costs?

Chunks that sleep, or do nothing, on two workers with few and with many slots, and on one worker with one slot: what
grows with slots and seconds is told from what each chunk costs; what a process pays for having slept, and the time from
one process to another, from a system that has little to do. The result is what `celeriac plan` reckons with:
`python -m benchmarks.capacity_costs --write` puts it into `producer/capacity/costs.json`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from statistics import median
from typing import Any

from benchmarks import report as reports
from benchmarks.capacity_stage import INLINE_BYTES, STORED_BYTES, Run, Stage, cores, run, system
from benchmarks.chunk_cost import WORKERS
from benchmarks.harness import is_quiet
from benchmarks.report import Finding, control, report
from benchmarks.stage import folder
from producer.capacity.costs import PACKAGED, Costs, Work

FEW_SLOTS, MANY_SLOTS = 16, 96
CHUNKS, LIGHT_CHUNKS = 2_400, 240
LIGHT_SECONDS = 0.02
SAMPLES = 20
IDLE_SECONDS = 6.0
LONG_SECONDS = 4.0
# Times that a chunk goes from process to process between the end of the one before in its slot and its own beginning.
HOPS = 6
_KINDS = {"producer": "producer", "Redis": "redis", "main processes": "main", "children": "child"}
_MIB = 2**20


def question(quick: bool, write: bool = False) -> bool:
    """Measure, and write it down where that is asked for; a void measurement is not written."""
    costs, quiet = measure(quick)
    findings = [
        Finding(
            f"{name}: producer, Redis, main process, child", ", ".join(f"{value:.3f}" for value in vars(work).values())
        )
        for name, work in vars(costs).items()
        if isinstance(work, Work)
    ]
    findings += [
        Finding("from process to process", f"{costs.hop_ms:.3f} ms"),
        Finding("a job of no work", f"{costs.job_ms:.1f} ms"),
        control("control: chunks without work, twice", quiet),
    ]
    sizes = {"slots": f"{FEW_SLOTS} and {MANY_SLOTS}", "workers": WORKERS, "chunks": CHUNKS, "unit": "ms"}
    void = not is_quiet(quiet)
    report("capacity_costs", sizes, findings, void=void, quick=quick, measured={"costs": costs.as_json()})
    if write and not void and not quick:
        PACKAGED.write_text(costs.as_json())
    return not void


def measure(quick: bool = False) -> tuple[Costs, float]:
    """The costs of this machine; and the same thing measured twice, as a ratio."""
    share = 10 if quick else 1
    with folder() as place, system(place, 1, 1) as stage:
        light = run(stage, LIGHT_CHUNKS // share, LIGHT_SECONDS)
        job_ms = median(run(stage, 1, 0.0).seconds for _ in range(SAMPLES // share + 1)) * 1e3
    full, idle, long = {}, {}, {}
    more: dict[str, Run] = {}
    for slots in (FEW_SLOTS, MANY_SLOTS):
        with folder() as place, system(place, slots, WORKERS) as stage:
            full[slots] = run(stage, CHUNKS // share, 0.0)
            idle[slots] = _idle(stage, IDLE_SECONDS / share)
            long[slots] = run(stage, slots, LONG_SECONDS / share)
            if slots == FEW_SLOTS:
                more["inline"] = run(stage, CHUNKS // 4 // share, 0.0, INLINE_BYTES)
                more["stored"] = run(stage, CHUNKS // 12 // share, 0.0, STORED_BYTES)
                more["again"] = run(stage, CHUNKS // share, 0.0)
    each_second = {kind: _apart(idle, kind) for kind in ("main processes", "Redis")}
    each_second["producer"] = _apart(
        {slots: {"producer": _beside_chunks(one, full[slots])} for slots, one in long.items()}, "producer"
    )
    each_second["children"] = (0.0, 0.0)

    def cost(of: Run, slots: int, count: int = WORKERS) -> Work:
        """Of each chunk, without what every second costs."""
        return _work(
            lambda kind: (
                (
                    of.processor_seconds[kind]
                    - of.seconds * (_times_counted(kind, count) * each_second[kind][0] + slots * each_second[kind][1])
                )
                / of.chunks
                * 1e3
            )
        )

    chunk = _mean(cost(full[FEW_SLOTS], FEW_SLOTS), cost(full[MANY_SLOTS], MANY_SLOTS), cost(more["again"], FEW_SLOTS))
    wake = _less(cost(light, 1, 1), chunk)
    costs = Costs(
        chunk=chunk,
        wake=Work(wake.producer_ms, wake.redis_ms, wake.main_ms),
        inline_mib=_times(_less(cost(more["inline"], FEW_SLOTS), chunk), _MIB / INLINE_BYTES),
        stored_mib=_times(_less(cost(more["stored"], FEW_SLOTS), chunk), _MIB / STORED_BYTES),
        worker_second=_work(lambda kind: each_second[kind][0] * 1e3),
        slot_second=_work(lambda kind: each_second[kind][1] * 1e3),
        job_ms=job_ms,
        hop_ms=_hop_ms(light, job_ms, chunk, wake),
        measured=_where(max(one.others for one in (light, *full.values(), *more.values()))),
    )
    return costs, sum(more["again"].processor_seconds.values()) / sum(full[FEW_SLOTS].processor_seconds.values())


def _hop_ms(light: Run, job_ms: float, chunk: Work, wake: Work) -> float:
    """What is left of the time between two chunks of one slot, when all have done their work."""
    between_ms = (light.seconds * 1e3 - job_ms) / light.chunks - LIGHT_SECONDS * 1e3
    worked_ms = chunk.child_ms + (chunk.main_ms + wake.main_ms) / 2 + (chunk.redis_ms + wake.redis_ms) / 2
    return max(0.0, between_ms - worked_ms) / HOPS


def _idle(stage: Stage, seconds: float) -> dict[str, float]:
    """Processor seconds of each second without a job."""
    before = stage.processes.seconds()
    time.sleep(seconds)
    return {kind: (now - before[kind]) / seconds for kind, now in stage.processes.seconds().items()}


def _beside_chunks(long: Run, full: Run) -> float:
    """What a second of a job costs its producer, apart from its few chunks."""
    used, chunk = long.processor_seconds["producer"], full.processor_seconds["producer"] / full.chunks
    return max(0.0, used - long.chunks * chunk) / long.seconds


def _apart(of: dict[int, dict[str, float]], kind: str) -> tuple[float, float]:
    """The parts of each worker, of the one producer, and of each slot."""
    few, many = of[FEW_SLOTS][kind], of[MANY_SLOTS][kind]
    slot = max(0.0, many - few) / (MANY_SLOTS - FEW_SLOTS)
    return max(0.0, few - FEW_SLOTS * slot) / _times_counted(kind, WORKERS), slot


def _times_counted(kind: str, workers: int) -> int:
    """Of what each worker costs every second; a producer has one such part, however many there are."""
    return 1 if kind == "producer" else workers


def _work(of: Callable[[str], float]) -> Work:
    return Work(**{f"{name}_ms": round(max(0.0, of(kind)), 5) for kind, name in _KINDS.items()})


def _combined(how: Callable[..., float], *works: Work) -> Work:
    return Work(**{name: round(how(*(getattr(one, name) for one in works)), 5) for name in vars(works[0])})


def _mean(*works: Work) -> Work:
    return _combined(lambda *values: sum(values) / len(values), *works)


def _less(work: Work, other: Work) -> Work:
    return _combined(lambda one, less: max(0.0, one - less), work, other)


def _times(work: Work, factor: float) -> Work:
    return _combined(lambda one: one * factor, work)


def _where(others: float) -> dict[str, Any]:
    """When, with what, on what kind of machine, not on which; and the most of its processors that others took."""
    return {
        "others": round(others, 2),
        "at": datetime.now(UTC).date().isoformat(),
        "cpu": reports.cpu_model(),
        "cores": cores(),
        "versions": reports.versions(),
    }


def main() -> int:
    """From the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="small sizes, to see that it works: the figures mean little"
    )
    parser.add_argument("--attempts", type=int, default=3, help="how often to measure until the machine is quiet")
    parser.add_argument("--write", action="store_true", help=f"write {PACKAGED.name}, unless the machine was not quiet")
    chosen = parser.parse_args()
    return 0 if any(question(chosen.quick, chosen.write) for _ in range(chosen.attempts)) else 1


if __name__ == "__main__":
    sys.exit(main())
