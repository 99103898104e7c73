"""What prepares a model asks for it in float64, in a process of its own, whose end is nobody's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_PREPARE = """
import os, sys
from pathlib import Path
from tasks.executors import float64
from tasks.models.model_version import entry_digest
from tasks.preparation.context import PreparationContext
from tasks.preparation.prepare import prepare
from tasks.preparation.trials import known_trials, record_path
from tasks.snapshots.cache import read
from worker_config.manifest import ModelEntry

path, cache, how = sys.argv[1:]
if how == "killed":
    float64.load = lambda *_: os.kill(os.getpid(), 9)
entry = ModelEntry(path=path, batch_rows=8, prefer="memory", tolerance=1e-12 if how == "strict" else 0.0)
context = PreparationContext(Path(cache), 2**30, 1, 1, 0, lambda text: None)
served = prepare("m", entry, entry_digest(entry), context)
folder = Path(served.folder)
trials = known_trials(folder, record_path(folder, entry, 1, context.gpus))
assert read(Path(served.folder)) == served.snapshot, "the record is of the files that are there"
assert not (Path(served.folder) / float64.PLACE).exists()
for trial in trials.trials:
    close = trial.true_error is not None and trial.true_error < 1e-4
    print(trial.executor, trial.agrees, close, trial.own_error, trial.why)
print("no truth:", trials.no_truth)
print("note:", served.note)
"""


@pytest.fixture
def found(models: Path, tmp_path: Path, request: pytest.FixtureRequest) -> list[str]:
    words = [sys.executable, "-c", _PREPARE, str(models / "digits.keras"), str(tmp_path), request.param]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("found", ["plain"], indirect=True)
def test_executors_are_held_against_float64(found: list[str]) -> None:
    graph, xla, frozen = (line.split() for line in found[:3])
    assert [one[:3] for one in (graph, xla, frozen)] == [[name, "True", "True"] for name in ("graph", "xla", "frozen")]
    assert graph[3] == xla[3] == frozen[3]
    assert 0 < float(graph[3]) < 1e-4
    assert found[-2] == "no truth: "


@pytest.mark.parametrize("found", ["killed"], indirect=True)
def test_without_it_the_own_graph_is_the_measure_and_that_is_told(found: list[str]) -> None:
    assert found[1].startswith("xla True False None")
    why = "the process was killed by signal SIGKILL; was there enough memory?"
    assert found[-2] == f"no truth: {why}"
    assert found[-1].startswith("note: executors were held against the own graph")
    assert found[-1].endswith(f"and not against float64: {why}")


@pytest.mark.parametrize("found", ["strict"], indirect=True)
def test_a_tolerance_without_precision_decides_executors_in_float32(found: list[str]) -> None:
    assert found[1].startswith("xla False True")
    assert found[1].endswith("1e-12 is allowed")
