"""What does it cost to look at every row, whether it is one that the executor is trusted with?

MobileNetV2, an MLP, a transformer and an LSTM in the executor that was chosen for them, one process as a child is: the
same rows with its limits and without any, in turns. Rows are ordinary ones, so that none goes to the own graph.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import bootstrap, is_quiet, ratios
from benchmarks.models import run_apart
from benchmarks.report import Finding, at_least, control, report
from benchmarks.stage import ask, folder

SHAPES: dict[str, tuple[int, ...]] = {
    "mobilenet": (96, 96, 3),
    "mlp": (1024,),
    "transformer": (64, 128),
    "lstm": (32, 64),
}
BATCH_ROWS, BLOCKS, CHUNK_SECONDS = 64, 9, 0.5
AIM = 0.99


def question(quick: bool) -> bool:
    """Measure all models; return whether the machine was quiet each time."""
    with folder() as place:
        os.environ["CELERIAC_CACHE"] = str(place / "cache")
        run_apart("benchmarks.executors_models", str(place))
        # All processes are forked before TensorFlow has done anything in this one.
        served = {name: prepared(place / f"{name}.keras", BATCH_ROWS) for name in SHAPES}
        quiet = [_measure(name, one, quick) for name, one in served.items()]
    return all(quiet)


def prepared(path: Path, batch_rows: int) -> Any:
    """A model as a worker with one child would serve it."""
    from tasks.models.model_version import entry_digest
    from tasks.preparation.context import PreparationContext
    from tasks.preparation.prepare import prepare
    from worker_config.manifest import ModelEntry
    from worker_config.settings import Settings

    entry = ModelEntry(path=str(path), batch_rows=batch_rows)
    return prepare(path.stem, entry, entry_digest(entry), PreparationContext.of(Settings.from_env(), 1, 1, print))


def _measure(name: str, served: Any, quick: bool) -> bool:
    from tasks.child.load_model import load_model
    from tasks.executors.guarded import InputRange

    guarded = load_model(served)
    bare = replace(guarded, runner=replace(guarded.runner, limits=InputRange()))
    random = np.random.default_rng(3)
    shape = (BATCH_ROWS, *SHAPES[name])
    rows = (
        random.integers(0, 256, shape, np.uint8) if name == "mobilenet" else random.standard_normal(shape, np.float32)
    )
    started = time.perf_counter()
    bare.predict(rows)
    batch_seconds = time.perf_counter() - started
    rows = np.concatenate([rows] * max(1, round((0.05 if quick else CHUNK_SECONDS) / batch_seconds)))
    seconds: dict[str, list[float]] = {"guarded": [], "bare": [], "again": []}
    for block in range(3 if quick else BLOCKS):
        for arm in ("bare", "guarded", "again") if block % 2 else ("again", "guarded", "bare"):
            model = guarded if arm == "guarded" else bare
            started = time.process_time()
            model.predict(rows)
            seconds[arm].append(time.process_time() - started)
    same = bootstrap(ratios(seconds["bare"], seconds["again"]))
    findings = [
        at_least("speed with limits / without", bootstrap(ratios(seconds["bare"], seconds["guarded"])), AIM),
        Finding("limit", str(guarded.runner.limits.limit), note="None: all rows are the executor's, unlooked at"),
        control("control: the same twice", same),
    ]
    sizes = {"rows": len(rows), "executor": served.executor, "blocks": len(seconds["bare"])}
    report(f"guard: {name}", sizes, findings, void=not is_quiet(same.median), quick=quick, measured=seconds)
    return is_quiet(same.median)


if __name__ == "__main__":
    ask(question, __doc__)
