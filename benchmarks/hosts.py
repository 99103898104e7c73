"""How long does a job on 96 slots of six hosts take when one is cut off, one is killed and one is slow?

Network namespaces as hosts (root and Linux alone), chunks that sleep, and `celeriac predict` on a host of its own, as
in `tests/chaos/test_many_hosts.py`, which has the right or wrong of it. Held against what the simulation behind
`celeriac plan` says of the same, by costs that are measured first. The first job has no trouble but the slow host.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.capacity_costs import measure
from benchmarks.capacity_stage import cores
from benchmarks.harness import DISTURBED
from benchmarks.meter import Load
from benchmarks.report import Finding, report
from benchmarks.stage import ask, folder
from producer.capacity.costs import Costs
from producer.capacity.scenario import Failure, Scenario
from producer.capacity.simulation import Outcome, Simulation
from tests.chaos.cluster import (
    CHUNK_ROWS,
    COLUMNS,
    CUT,
    CUT_AT,
    KILLED,
    KILLED_AT,
    MENDED_AT,
    SLOW,
    SLOW_TIMES,
    Cluster,
    Size,
)
from tests.chaos.network import why_not

SIZE, QUICK = Size(6, 16, 6_000, 0.5), Size(3, 4, 400, 0.2)
AIM = 1.2
JOBS = {"no trouble": (False, False), "trouble": (False, True), "trouble, detached": (True, True)}


def question(quick: bool) -> bool:
    """Measure all three jobs."""
    if reason := why_not():
        raise SystemExit(f"hosts: {reason}")
    size = QUICK if quick else SIZE
    costs, _ = measure(quick)
    findings, measured, others = [], {}, []
    with folder() as place:
        cluster = Cluster(Path(place), size)
        try:
            cluster.start()
            for name, (detached, injured) in JOBS.items():
                cluster.bring_up()
                load = Load()
                run = cluster.run(detached=detached, injured=injured)
                others.append(load.since()[1])
                took, told, again = run.last - run.first, simulated(size, costs, injured), run.ledger.chunks_sent_again
                back = run.back - run.marks.mended if injured else 0.0
                measured[name] = {"seconds": took, "simulated": told.seconds, "others": others[-1], "again": again}
                ratio = took / told.seconds
                note = f"{again} chunks again ({told.chunks_again} simulated), others {others[-1]:.2f}"
                note += f", back {back:.1f} s after its link" * injured
                findings += [
                    Finding(f"{name}: time / what is simulated", f"{ratio:.2f}", f"<= {AIM}", ratio <= AIM),
                    Finding(f"{name}: seconds", f"{took:.1f}", note=note),
                ]
        finally:
            cluster.stop()
    void = max(others) > DISTURBED
    sizes = {"hosts": size.hosts, "slots": size.slots, "chunks": size.chunks, "seconds of a chunk": size.chunk_seconds}
    report("hosts", sizes, findings, void=void, quick=quick, measured=measured)
    return not void


def simulated(size: Size, costs: Costs, injured: bool) -> Outcome:
    """The same on hosts that share this machine's cores."""
    number = {f"w{number}": number for number in range(size.hosts)}
    failures = [Failure("link", CUT_AT, MENDED_AT, number[CUT]), Failure("worker", KILLED_AT, worker=number[KILLED])]
    scenario = Scenario(
        rows=size.chunks,
        row_seconds=size.chunk_seconds,
        slots=size.slots,
        workers=size.hosts,
        chunk_rows=1,
        row_bytes=CHUNK_ROWS * COLUMNS * 4,
        cores_per_host=cores(),
        one_host=True,
        computes=False,
        failures=failures if injured else (),
        slower={number[SLOW]: SLOW_TIMES},
    )
    return Simulation(scenario, costs).run()


if __name__ == "__main__":
    ask(question, __doc__)
