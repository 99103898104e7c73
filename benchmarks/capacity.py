"""Does the simulation behind `celeriac plan` tell how long real jobs take?

Jobs of chunks that sleep, on 2 to 128 slots of one and two workers, of one and several producers, with rows in messages
and in Redis, and with a worker that is killed in the middle: each is run, and its seconds are held against what the
simulation says of the same scenario. Costs are measured first, in the same run. Before and after each job a system of
its own is asked how much slower the machine is by then: how many cores a system gets that has endless work, what a
chunk costs there, how long a job of no work takes.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from statistics import median

from benchmarks.capacity_costs import measure
from benchmarks.capacity_stage import (
    STORED_BYTES,
    Run,
    Stage,
    check_job,
    cores,
    predict,
    rows_of,
    run,
    system,
)
from benchmarks.harness import DISTURBED
from benchmarks.meter import Load, wait_until_idle
from benchmarks.report import Finding, report
from benchmarks.stage import Rivals, ask, folder
from producer import Client
from producer.capacity.costs import Costs, Work
from producer.capacity.scenario import Failure, Scenario
from producer.capacity.simulation import Simulation

AIM = 0.15
PROBE_SLOTS, PROBE_CHUNKS, PROBE_JOBS = 16, 500, 5
KILLED_AT = 0.3
SMALL_BYTES = 4 * 2**10


@dataclass(frozen=True)
class Case:
    """One job, or several together, of `chunks` in all."""

    chunks: int
    seconds: float
    row_bytes: int = 8
    producers: int = 1
    kills: bool = False


# By slots and workers.
CASES: dict[tuple[int, int], list[Case]] = {
    (PROBE_SLOTS, 2): [
        Case(1_600, 0.05),
        Case(640, 0.1, SMALL_BYTES),
        Case(320, 0.25, STORED_BYTES),
        Case(600, 0.1, producers=3),
        Case(1_500, 0.01),
        Case(480, 0.25, kills=True),  # the last, as a worker is missing then
    ],
    (2, 1): [Case(400, 0.01), Case(80, 0.1)],
    (16, 1): [Case(96, 1.0), Case(640, 0.1)],
    (64, 2): [Case(1_600, 0.25), Case(1_280, 0.25, SMALL_BYTES, producers=2)],
    (128, 2): [Case(640, 1.0), Case(1_280, 0.5)],
}
QUICK = {(2, 1), (16, 1)}


@dataclass(frozen=True)
class Conditions:
    """What the machine gives at a moment: cores that a system gets, what a chunk costs, and how long no work takes."""

    cores: float
    chunk_ms: float
    job_ms: float


def question(quick: bool) -> bool:
    """Measure costs, then run all cases; void where other programs were busy meanwhile."""
    costs, _ = measure(quick)
    findings: list[Finding] = []
    measured: dict[str, object] = {"costs": costs.as_json()}
    disturbed = 0.0
    with folder() as probe_place, system(probe_place, PROBE_SLOTS, 2) as probe:
        _probe(probe)
        usual = _probe(probe)
        # Those of the probe's own system last, as one of them kills a worker.
        for (slots, workers), cases in reversed(CASES.items()):
            if quick and (slots, workers) not in QUICK:
                continue
            with _stage(slots, workers, probe) as stage:
                for case in cases:
                    finding, others = _hold(case, stage, workers, costs, probe, usual)
                    findings.append(finding)
                    disturbed = max(disturbed, others)
    reached = all(finding.reached for finding in findings)
    void = disturbed > DISTURBED
    report(
        "capacity",
        {"cases": len(findings), "cores": cores(), "within the aim": sum(map(bool, (one.reached for one in findings)))},
        [*findings, Finding("all within the aim", str(reached), f"{AIM:.0%}", reached)],
        void=void,
        quick=quick,
        measured=measured,
    )
    return not void


@contextmanager
def _stage(slots: int, workers: int, probe: Stage) -> Iterator[Stage]:
    if (slots, workers) == (PROBE_SLOTS, 2):
        yield probe
        return
    with folder() as place, system(place, slots, workers) as stage:
        yield stage


def _hold(
    case: Case, stage: Stage, workers: int, costs: Costs, probe: Stage, usual: Conditions
) -> tuple[Finding, float]:
    """Run a case; its seconds against those that are predicted, and what other programs took."""
    wait_until_idle()
    before = _probe(probe)
    ran = _run(case, stage)
    # A killed worker is missing from the probe.
    after = before if case.kills else _probe(probe)
    now = Conditions(*(_middle(getattr(before, one.name), getattr(after, one.name)) for one in fields(Conditions)))
    scenario = Scenario(
        rows=case.chunks,
        row_seconds=case.seconds,
        slots=stage.slots,
        workers=workers,
        producers=case.producers,
        chunk_rows=1,
        row_bytes=case.row_bytes if case.row_bytes > 8 else 0,
        cores_per_host=min(cores(), now.cores),
        one_host=True,
        computes=False,
        failures=[Failure("worker", KILLED_AT)] if case.kills else (),
    )
    predicted = Simulation(scenario, _slowed(costs, now, usual)).run()
    ratio = predicted.seconds / ran.seconds
    what = (
        f"{stage.slots} slots of {workers}, {case.chunks:,} chunks of {case.seconds} s, {case.row_bytes:,} B"
        f"{f', {case.producers} producers' if case.producers > 1 else ''}{', one worker killed' if case.kills else ''}"
    )
    value = f"{ratio:.2f} ({predicted.seconds:.2f} / {ran.seconds:.2f} s)"
    # What the killed processes had used would count as others'.
    others = 0.0 if case.kills else ran.others
    print(what, value, f"others {others:.0%}, {now}", flush=True)
    return Finding(what, value, f"1 +/- {AIM}", abs(ratio - 1) <= AIM), others


def _run(case: Case, stage: Stage) -> Run:
    if case.kills:
        return _killing(case, stage)
    if case.producers == 1:
        return run(stage, case.chunks, case.seconds, case.row_bytes)
    producers = Rivals(_produce, case.producers)
    each = case.chunks // case.producers
    load, began = Load(), time.monotonic()
    url = str(stage.client.broker_url)
    producers.begin(*[(url, each, case.seconds, case.row_bytes)] * case.producers)
    producers.finish()
    return Run(case.chunks, time.monotonic() - began, {}, load.since()[1])


def _produce(url: str, chunks: int, seconds: float, row_bytes: int) -> None:
    """One producer's work, in a process of its own."""
    with Client(url) as client:
        predict(client, rows_of(chunks, seconds, row_bytes))


def _killing(case: Case, stage: Stage) -> Run:
    """A job in whose middle the second worker is killed, with all its children."""
    load, began = Load(), time.monotonic()

    def kill(parts: int) -> None:
        if parts == int(KILLED_AT * case.chunks):
            os.killpg(stage.processes.mains[1].pid, signal.SIGKILL)

    check_job(stage.client, rows_of(case.chunks, case.seconds, case.row_bytes), kill)
    return Run(case.chunks, time.monotonic() - began, {}, load.since()[1])


def _probe(stage: Stage) -> Conditions:
    full = run(stage, PROBE_CHUNKS, 0.0)
    none = median(run(stage, 1, 0.0).seconds for _ in range(PROBE_JOBS))
    return Conditions(full.cores, sum(full.processor_seconds.values()) / PROBE_CHUNKS * 1e3, none * 1e3)


def _middle(one: float, other: float) -> float:
    return (one + other) / 2


def _slowed(costs: Costs, now: Conditions, usual: Conditions) -> Costs:
    """The costs, as many times as high as things take longer now than when they were measured."""
    work, ways = now.chunk_ms / usual.chunk_ms, now.job_ms / usual.job_ms
    slowed = {
        one.name: Work(**{name: value * work for name, value in vars(getattr(costs, one.name)).items()})
        for one in fields(Costs)
        if isinstance(getattr(costs, one.name), Work)
    }
    return replace(costs, **slowed, hop_ms=costs.hop_ms * ways, job_ms=costs.job_ms * ways)


if __name__ == "__main__":
    ask(question, __doc__)
