"""What does it cost a child to hold an executor that is not proven against the model's own graph while a job runs?

Networks of dense layers in TFLite, rows at hand in memory, chunks of a quarter of a second, one process as a child is.
The same executor runs with and without the check. The check's own processor seconds are told as a share of the
executor's, in a job of some seconds after its first chunk, and the first chunk's for itself, as it loads the own graph.
Rows are either all alike, or each twentieth of another kind, larger and larger, which has most to be looked at.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from benchmarks.guard import prepared
from benchmarks.harness import bootstrap, is_quiet, ratios
from benchmarks.models import run_apart
from benchmarks.online_check_models import WIDTHS
from benchmarks.report import Finding, control, report
from benchmarks.stage import ask, folder

BATCH_ROWS = 256
CHUNK_SECONDS, JOB_SECONDS, BLOCKS = 0.25, 3.0, 5
AIM = 0.01


def question(quick: bool) -> bool:
    """Measure all models; return whether the machine was quiet each time."""
    with folder() as place:
        os.environ["CELERIAC_CACHE"] = str(place / "cache")
        run_apart("benchmarks.online_check_models", str(place))
        # All processes are forked before TensorFlow has done anything in this one.
        served = {name: prepared(place / f"{name}.keras", BATCH_ROWS) for name in WIDTHS}
        quiet = [_measure(name, one, odd, quick) for name, one in served.items() for odd in (False, True)]
    return all(quiet)


def _measure(name: str, served: Any, odd: bool, quick: bool) -> bool:
    from tasks.child.load_model import load_model
    from tasks.executors import EXECUTORS

    # Whatever the trials found.
    EXECUTORS["tflite"].build(Path(served.folder), served.snapshot, BATCH_ROWS, [])  # type: ignore[misc]
    served = msgspec.structs.replace(served, executor="tflite")
    bare = load_model(served)
    held = load_model(msgspec.structs.replace(served, unproven=["Any"]))
    make = partial(_rows, WIDTHS[name][0], odd)
    rows = _rows_of(lambda rows: bare.predict(rows), make, 0.02 if quick else CHUNK_SECONDS)
    chunks = round((0.2 if quick else JOB_SECONDS) / CHUNK_SECONDS) + 1
    jobs: dict[str, list[float]] = {"bare": [], "held": [], "again": []}
    firsts, shares, counted = [], [], []
    for block in range(BLOCKS):
        data = [make(rows, seed=block * chunks + chunk) for chunk in range(chunks)]
        for arm in ("bare", "held", "again") if block % 2 else ("again", "held", "bare"):
            model = held if arm == "held" else bare
            with _counted(model.runner.check) as seconds:
                started = time.process_time()
                for chunk, some in enumerate(data):
                    if model.runner.check is not None:
                        model.runner.check.begin(f"{block}", chunk, by_own_graph=False)
                    model.predict(some)
                    if not chunk:
                        firsts += seconds
                        seconds.clear()
                        started = time.process_time()
                jobs[arm].append(time.process_time() - started)
            if seconds:
                shares.append(sum(seconds) / (jobs[arm][-1] - sum(seconds)))
                counted.append(model.runner.check.rows_held if model.runner.check else 0)
    same = bootstrap(ratios(jobs["bare"], jobs["again"]))
    share = bootstrap(shares)
    findings = [
        Finding("the check, of the executor's seconds", f"{share.median:.3%}", f"<= {AIM:.0%}", share.median <= AIM),
        Finding("the same, the worst job", f"{max(shares):.3%}"),
        Finding("processor seconds with / without", str(bootstrap(ratios(jobs["held"], jobs["bare"])))),
        Finding(
            "first chunk of a job", f"{np.median(firsts[1:]) * 1e3:.1f} ms", note=f"{firsts[0]:.2f} s the very first"
        ),
        Finding("rows held, all jobs", f"{counted[-1]:,} of {BLOCKS * chunks * rows:,}"),
        control("control: the same twice", same),
    ]
    sizes = {"rows": chunks * rows, "chunk rows": rows, "blocks": BLOCKS, "executor": served.executor, "odd": odd}
    measured = {"shares": shares, "firsts": firsts, **jobs}
    report(f"online_check: {name}", sizes, findings, void=not is_quiet(same.median), quick=quick, measured=measured)
    return is_quiet(same.median)


@contextmanager
def _counted(check: Any) -> Iterator[list[float]]:
    """The processor seconds of each call of the check."""
    seconds: list[float] = []
    if check is None:
        yield seconds
        return
    hold = check.hold

    def held(*given: Any) -> None:
        started = time.process_time()
        hold(*given)
        seconds.append(time.process_time() - started)

    check.hold = held
    try:
        yield seconds
    finally:
        del check.hold


def _rows_of(run: Callable[[Any], Any], make: Callable[..., Any], seconds: float) -> int:
    """Whole batches that take so long."""
    some = make(8 * BATCH_ROWS, seed=0)
    run(some)
    started = time.process_time()
    run(some)
    took = time.process_time() - started
    return max(1, round(8 * seconds / took)) * BATCH_ROWS


def _rows(columns: int, odd: bool, count: int, *, seed: int) -> npt.NDArray[np.float32]:
    rows = np.random.default_rng(seed).standard_normal((count, columns), np.float32)
    if odd:
        rows[::20] *= 1 + seed
    return rows


if __name__ == "__main__":
    ask(question, __doc__)
