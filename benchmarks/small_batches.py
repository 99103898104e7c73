"""What do few rows cost in a smaller batch, against the whole one that a job takes; and does anything grow meanwhile?

The demo's network of digits, and MobileNetV2 for 96x96x3 pixels, in the executor that was chosen for them, one process
as a child is: 1, 4, 8 and 64 rows in whole batches of 64 and in smaller ones, in turns. Then a thousand calls with
random numbers of rows, in which no function of TensorFlow may be made and no memory be kept.
"""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import replace

from benchmarks.guard import prepared
from benchmarks.harness import WrongOutputError, bootstrap, is_quiet, ratios
from benchmarks.models import run_apart
from benchmarks.report import Finding, at_least, at_most, control, report
from benchmarks.stage import ask, folder

BATCH_ROWS, BLOCKS, RANDOM_CALLS = 64, 9, 1_000
COUNTS = (1, 4, 8, 64)
# Of one row: how many times as fast as a whole batch.
AIM = {"digits": 2.0, "mobilenet": 10.0}
MOST_GROWN_MIB = 4.0
# Of the outputs' spread: in smaller batches last bits differ.
ALLOWED = 1e-4


def question(quick: bool) -> bool:
    """Measure both models; return whether the machine was quiet each time."""
    with folder() as place:
        os.environ["CELERIAC_CACHE"] = str(place / "cache")
        run_apart("benchmarks.executors_models", str(place))
        rows = {"digits": _digits(place), "mobilenet": _blots()}
        # All processes are forked before TensorFlow has done anything in this one.
        served = {name: prepared(place / f"{name}.keras", BATCH_ROWS) for name in rows}
        quiet = [_measure(name, served[name], rows[name], quick) for name in rows]
    return all(quiet)


def _digits(place: Path) -> Any:
    """Handwritten digits, and the demo's network trained on them."""
    from sklearn.datasets import load_digits

    images, truth = load_digits(return_X_y=True)
    images = images.astype(np.float32)
    np.save(place / "digits.npy", images)
    np.save(place / "digits_true.npy", truth)
    run_apart("producer.cli.demo_model", str(place))
    return images


def _blots() -> Any:
    size, pixels = 16, 96
    blots = np.random.default_rng(3).integers(0, 256, (512, pixels // size, pixels // size, 3), np.uint8)
    return blots.repeat(size, axis=1).repeat(size, axis=2)


def _measure(name: str, served: Any, rows: Any, quick: bool) -> bool:
    from tasks.child.load_model import load_model

    model = load_model(served)
    # Of calls of 64 rows, whatever the trial has found of fewer.
    of_whole = load_model(replace(served, trial=replace(served.trial, call_rows=BATCH_ROWS)))
    findings, measured, same = [], {}, []
    for count in COUNTS:
        some = rows[:count]
        whole, small = partial(of_whole.predict, some), partial(model.predict, some, small_batches=True)
        _check(small(), whole())
        seconds: dict[str, list[float]] = {"whole": [], "small": [], "again": []}
        for block in range(3 if quick else BLOCKS):
            for arm in ("whole", "small", "again") if block % 2 else ("again", "small", "whole"):
                seconds[arm].append(_processor_seconds(small if arm == "small" else whole, 3 if quick else 20))
        same += ratios(seconds["whole"], seconds["again"])
        of_batch, of_small = (1e3 * float(np.median(seconds[arm])) for arm in ("whole", "small"))
        times = bootstrap(ratios(seconds["whole"], seconds["small"]))
        findings.append(Finding(f"{count} rows, whole batch / smaller", f"{of_batch:.3f} / {of_small:.3f} ms"))
        what = f"{count} rows, times as fast"
        findings.append(at_least(what, times, AIM[name]) if count == 1 else Finding(what, str(times)))
        measured[str(count)] = seconds
    functions, grown = _random_calls(model, rows)
    findings += [
        at_most("memory kept in calls of random sizes", grown / 2**20, MOST_GROWN_MIB, "MiB"),
        at_most("functions made meanwhile", functions, 0, ""),
        control("control: the same twice", control_ratio := bootstrap(same)),
    ]
    batches = " ".join(map(str, [*served.small_batches, served.batch_rows]))
    sizes = {"executor": served.executor, "batches": batches, "random calls": RANDOM_CALLS}
    void = not is_quiet(control_ratio.median)
    report(f"small_batches: {name}", sizes, findings, void=void, quick=quick, measured=measured)
    return not void


def _processor_seconds(call: Any, times: int) -> float:
    """The least of some calls."""
    least = float("inf")
    for _ in range(times):
        started = time.process_time()
        call()
        least = min(least, time.process_time() - started)
    return least


def _random_calls(model: Any, rows: Any) -> tuple[int, int]:
    """By how many functions TensorFlow has more, and by how many bytes this process, after many calls."""
    from tensorflow.python.eager import context

    from tasks.models.memory import give_back
    from tasks.preparation.benchmark import private_bytes

    def state() -> tuple[int, int]:
        give_back()
        return len(context.context().list_function_names()), private_bytes()

    model.predict(rows[:BATCH_ROWS])
    before = state()
    for count in np.random.default_rng(7).integers(1, BATCH_ROWS + 1, RANDOM_CALLS):
        model.predict(rows[:count], small_batches=True)
    functions, size = (after - was for after, was in zip(state(), before, strict=True))
    return functions, size


def _check(small: Any, whole: Any) -> None:
    error = float(np.abs(small - whole).max() / max(1e-9, float(whole.std())))
    if not error <= ALLOWED:
        raise WrongOutputError(f"an output in a smaller batch deviates by {error:.2g} of the outputs' spread")


if __name__ == "__main__":
    ask(question, __doc__)
