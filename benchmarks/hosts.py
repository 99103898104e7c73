"""How much time does a job on 96 slots of six hosts lose when one is cut off, one is killed and one is slow?

Network namespaces as hosts (root and Linux alone), chunks that sleep, and `celeriac predict` on a host of its own, as
in `tests/chaos/test_many_hosts.py`, which has the right or wrong of it. Held against the time in which the slots that
were there could have run all chunks, had nothing been lost or cost anything: one that is cut off is there again from
the moment when its cable is back, and a slow one has its pace. The first job has none of this, but for the slow host.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.harness import DISTURBED
from benchmarks.meter import Load
from benchmarks.report import Finding, report
from benchmarks.stage import ask, folder
from tests.chaos.cluster import CUT, KILLED, SLOW, SLOW_TIMES, Cluster, Marks, Run, Size
from tests.chaos.network import why_not

SIZE, QUICK = Size(6, 16, 6_000, 0.5), Size(3, 4, 400, 0.2)
AIM = 1.2
JOBS = {"no trouble": (False, False), "trouble": (False, True), "trouble, detached": (True, True)}


def question(quick: bool) -> bool:
    """Measure all three jobs."""
    if reason := why_not():
        raise SystemExit(f"hosts: {reason}")
    size = QUICK if quick else SIZE
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
                took, least = run.last - run.first, least_seconds(size, run)
                measured[name] = {"seconds": took, "least": least, "others": others[-1], "again": _again(run)}
                ratio = took / least
                findings.append(Finding(f"{name}: time / the least", f"{ratio:.2f}", f"<= {AIM}", ratio <= AIM))
                findings.append(
                    Finding(
                        f"{name}: seconds", f"{took:.1f}", note=f"{_again(run)} chunks again, others {others[-1]:.2f}"
                    )
                )
        finally:
            cluster.stop()
    void = max(others) > DISTURBED
    sizes = {"hosts": size.hosts, "slots": size.slots, "chunks": size.chunks, "seconds of a chunk": size.chunk_seconds}
    report("hosts", sizes, findings, void=void, quick=quick, measured=measured)
    return not void


def least_seconds(size: Size, run: Run) -> float:
    """From the first chunk's begin on, in which the slots that were there could have run them all."""
    marks, at, left = run.marks, run.first, float(size.chunks)
    for until in sorted(mark for mark in (marks.cut, marks.killed, marks.mended) if mark < float("inf")):
        done = (until - at) * _rate(size, marks, at)
        if done >= left:
            break
        left, at = left - done, until
    return at + left / _rate(size, marks, at) - run.first


def _rate(size: Size, marks: Marks, at: float) -> float:
    """Chunks a second from this moment on."""
    hosts = [f"w{number}" for number in range(size.hosts)]
    away = {CUT} if marks.cut <= at < marks.mended else set()
    away |= {KILLED} if marks.killed <= at else set()
    of_each = size.slots_each / size.chunk_seconds
    return sum(of_each / (SLOW_TIMES if host == SLOW else 1) for host in hosts if host not in away)


def _again(run: Run) -> int:
    return run.ledger.chunks_sent_again


if __name__ == "__main__":
    ask(question, __doc__)
