"""Does the choice of executors depend on what else the machine does meanwhile?

Four models are prepared with empty caches, as at a first start: on the machine as it is, and beside a busy loop
on each core, in turns. Every round must choose the same.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.models import run_apart
from benchmarks.report import Finding, report
from benchmarks.stage import ask

MODELS = ("mobilenet", "mlp", "transformer", "lstm")
ROUNDS = 3


def question(quick: bool) -> bool:
    """Prepare all models several times; return whether the choice was the same each time."""
    models = MODELS[1:] if quick else MODELS
    with tempfile.TemporaryDirectory(prefix="celeriac-") as name:
        folder = Path(name)
        run_apart("benchmarks.executors_models", name)
        lines = [f'[models.{model}]\npath = "{model}.keras"\n' for model in models]
        (folder / "models.toml").write_text("\n".join(lines))
        chosen: dict[str, list[list[str]]] = {"idle": [], "busy": []}
        for number in range(1 if quick else ROUNDS):
            chosen["idle"].append(_executors(folder, f"idle-{number}"))
            with _busy_cores():
                chosen["busy"].append(_executors(folder, f"busy-{number}"))
    rounds = [tuple(one) for each in chosen.values() for one in each]
    same = len(set(rounds)) == 1
    findings = [
        Finding(f"executor of {model}", " ".join(sorted({one[number] for one in rounds})))
        for number, model in enumerate(models)
    ]
    findings.append(Finding("rounds that chose the same", f"{rounds.count(rounds[0])} of {len(rounds)}", "all", same))
    report("choice", {"models": len(models)}, findings, void=False, quick=quick, measured=dict(chosen))
    return True


def _executors(folder: Path, cache: str) -> list[str]:
    command = [sys.executable, "-m", "tasks.describe", str(folder / "models.toml")]
    environ = {**os.environ, "CELERIAC_CACHE": str(folder / cache)}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    return [described["info"]["executor"] for described in json.loads(done.stdout)]


@contextmanager
def _busy_cores() -> Iterator[None]:
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


if __name__ == "__main__":
    ask(question, __doc__)
