"""What do rows of a DataFrame or of a table of Arrow cost, beside the same rows as arrays?

A gigabyte of eight columns of floats for a function, by their names, whose work is a sum; and a gigabyte as the only
input of a small Keras model: a matrix, a column of lists of one size, or eight columns of one block of pandas.

- Processor seconds of all processes, against those of the job with arrays.
- The producer's memory, its data included, each kind in a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.frames_kinds import COLUMNS, FORMS, KINDS, MANIFEST, columns_of, matrix_of
from benchmarks.harness import Arm, WrongOutputError, compare
from benchmarks.report import Finding, report, report_comparison
from benchmarks.split_reads_model import total
from benchmarks.stage import CHILDREN, ask, folder
from producer import Client, local

ROW_BYTES = {"by_name": 8 * COLUMNS, "matrix": 4 * COLUMNS}
BYTES, QUICK_BYTES = 2**30, 2**26
AIM = 1.05


def question(quick: bool) -> bool:
    """Measure processor seconds and memory of both forms; return whether the machine was quiet."""
    with folder() as place:
        write_model(place / "matrix.keras")
        (place / "models.toml").write_text(MANIFEST)
        with local(models=place / "models.toml", workers=CHILDREN) as client:
            quiet = [_compared(client, place, form, quick) for form in FORMS]
    return all(quiet)


def write_model(path: Path) -> None:
    """One layer, whose weights are known."""
    import keras

    given = keras.Input((COLUMNS,), name="x")
    model = keras.Model(given, keras.layers.Dense(1, kernel_initializer="ones", name="y")(given))
    model.save(path)


def _compared(client: Client, place: Path, form: str, quick: bool) -> bool:
    rows = (QUICK_BYTES if quick else BYTES) // ROW_BYTES[form]
    expected = float(np.sum(total(columns_of(rows)), dtype=np.float64)) if form == "by_name" else _sum(matrix_of(rows))
    check = partial(_check, expected)
    arms = [Arm(kind, partial(_predicted, client, form, FORMS[form](kind, rows)), check) for kind in KINDS]
    found = compare(arms[0], arms[1:])
    findings = []
    for kind in KINDS[1:]:
        cost = float(np.median(np.divide(found.cpu_seconds[kind], found.cpu_seconds["arrays"])))
        findings.append(Finding(f"{kind} / arrays, processor seconds", f"{cost:.3f}", f"<= {AIM}", cost <= AIM))
    sizes = {"columns": COLUMNS, "children": CHILDREN}
    quiet = report_comparison(f"frames: {form}", found, rows, sizes, findings, quick=quick)
    del arms
    _remember(client, form, rows, check, quick)
    return quiet


def _predicted(client: Client, form: str, data: Any) -> float:
    return sum(_sum(part.outputs) for part in client.submit(form, data).parts())


def _sum(outputs: Any) -> float:
    return float(outputs.sum(dtype=np.float64))


def _check(expected: float, found: float) -> None:
    if abs(found / expected - 1) > 1e-6:
        raise WrongOutputError(f"the sum of all outputs is {found}, not {expected}")


def _remember(client: Client, form: str, rows: int, check: Any, quick: bool) -> None:
    runs = {kind: [_job(client, form, kind, rows, check) for _ in range(1 if quick else 3)] for kind in KINDS}
    peaks = {kind: float(np.median([run["peak_bytes"] for run in runs[kind]])) for kind in KINDS}
    findings = [
        Finding(
            f"{kind} / arrays, the producer's memory",
            f"{peaks[kind] / peaks['arrays']:.3f}",
            f"<= {AIM}",
            peaks[kind] <= AIM * peaks["arrays"],
            f"{peaks[kind] / 2**20:,.0f} MiB",
        )
        for kind in KINDS[1:]
    ]
    report(f"frames: {form}, memory", {"rows": rows}, findings, void=False, quick=quick, measured=runs)


def _job(client: Client, form: str, kind: str, rows: int, check: Any) -> Any:
    told = json.dumps({"broker": client.broker_url, "form": form, "kind": kind, "rows": rows})
    command = [sys.executable, "-m", "benchmarks.frames_job", told]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    check(found["outputs"])
    return found


if __name__ == "__main__":
    ask(question, __doc__)
