"""What does a prediction of 1,797 digits cost as a whole command, and a worker of four children before it serves?

Against `python -c "import tensorflow"`, in turns, by the wall and by processors: `celeriac predict`, embedded, its
snapshot in the cache; and a worker that holds the demo's network, until all children are ready. Then the proportional
memory (PSS) of all its processes, against what it was when the main process imported TensorFlow whatever its models
needed: 222 MB, and 26 MB of its own for each child.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import psutil

from benchmarks.harness import WrongOutputError, bootstrap, is_quiet, ratios
from benchmarks.meter import Memory, wait_until_idle
from benchmarks.models import run_apart
from benchmarks.report import Finding, at_most, control, report
from benchmarks.stage import ask, folder
from benchmarks.starting import redis_of, start_worker

CHILDREN, BLOCKS = 4, 7
COMMAND_SHARE, READY_SHARE, MEMORY_SHARE = 0.35, 0.3, 0.4
BEFORE_MB = 222 + CHILDREN * 26


class Seconds(NamedTuple):
    """By the wall, and of all processors."""

    wall: float
    processors: float


def question(quick: bool) -> bool:
    """Measure all in turns; return whether the imports were alike."""
    with folder() as place:
        images = _model(place)
        os.environ["CELERIAC_CACHE"] = str(place / "cache")
        celeriac = str(Path(sys.executable).with_name("celeriac"))
        rows, scores_file, models = (str(place / name) for name in ("digits.npy", "scores.npy", "models.toml"))
        command = [celeriac, "predict", "digits", rows, "-o", scores_file, "--models", models, "--quiet"]
        predict = partial(_run, command)
        imports = partial(_run, [sys.executable, "-c", "import tensorflow"])
        with redis_of(place) as url:
            predict()
            found: dict[str, list[Any]] = {"import": [], "predict": [], "worker": [], "again": []}
            memory = []
            for _ in range(3 if quick else BLOCKS):
                wait_until_idle()
                for name, run in (("import", imports), ("predict", predict)):
                    found[name].append(run())
                    (place / "scores.npy").unlink(missing_ok=name == "import")
                with start_worker(place, url, CHILDREN) as (wall, worker):
                    processors, size = _used(psutil.Process(worker.pid))
                    found["worker"].append(Seconds(wall, processors))
                    memory.append(size / 1e6)
                found["again"].append(imports())
        predict()
        scores = np.load(place / "scores.npy")
        if scores.shape != (len(images), 10):
            raise WrongOutputError(f"{scores.shape} came out")
    return _report(found, memory, quick)


def _report(found: dict[str, list[Any]], memory: list[float], quick: bool) -> bool:
    findings = []
    for number, kind in enumerate(Seconds._fields):
        times = {name: [one[number] for one in some] for name, some in found.items()}
        findings.append(Finding(f"import tensorflow, {kind}", f"{median(times['import'] + times['again']):.2f} s"))
        for name, aim in (("predict", COMMAND_SHARE), ("worker", READY_SHARE)):
            share = bootstrap(ratios(times[name], times["import"]))
            findings.append(Finding(f"{name} / import, {kind}", str(share), f"<= {aim:.2f}", share.median <= aim))
    what = f"memory of {CHILDREN} children and their worker"
    findings.append(at_most(what, median(memory), MEMORY_SHARE * BEFORE_MB, "MB"))
    same = bootstrap(ratios(*([one.processors for one in found[name]] for name in ("import", "again"))))
    findings.append(control("control: the import twice, processors", same))
    void = not is_quiet(same.median)
    sizes, measured = {"rows": 1_797, "children": CHILDREN}, {**found, "memory": memory}
    report("embedded", sizes, findings, void=void, quick=quick, measured=measured)
    return not void


def _model(place: Path) -> Any:
    """Handwritten digits, the demo's network trained on them, and its manifest."""
    from sklearn.datasets import load_digits

    images, truth = load_digits(return_X_y=True)
    np.save(place / "digits.npy", images.astype(np.float32))
    np.save(place / "digits_true.npy", truth)
    run_apart("producer.cli.demo_model", str(place))
    (place / "models.toml").write_text('[models.digits]\npath = "digits.keras"\n')
    return images


def _used(worker: psutil.Process) -> tuple[float, int]:
    """Processor seconds so far, and memory, of a worker and the processes below it."""
    seconds, size = 0.0, 0
    for process in (worker, *worker.children(recursive=True)):
        with suppress(psutil.NoSuchProcess, OSError):  # one that has just ended
            seconds += sum(process.cpu_times()[:4])
            size += Memory.of(process.pid).pss
    return seconds, size


def _run(command: list[str]) -> Seconds:
    before, started = _children(), time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return Seconds(time.monotonic() - started, _children() - before)


def _children() -> float:
    """Processor seconds of processes that have ended, and those below them."""
    times = os.times()
    return times.children_user + times.children_system


if __name__ == "__main__":
    ask(question, __doc__)
