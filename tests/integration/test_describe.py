"""`python -m tasks.describe`: what it prints of models, what it costs, and how it says what is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from tasks.protocol.records import Described
from worker_config.errors import ExitCode


def describe(manifest: Path, *options: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *options, "-m", "tasks.describe", str(manifest)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environ})


def test_what_is_in_the_cache_is_told_without_tensorflow(models: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "models.toml"
    manifest.write_text(f'[models.a]\npath = "{models}/digits.keras"\n[models.f]\npath = "builtins:len"\n')
    first = describe(manifest)
    assert first.returncode == 0, first.stderr

    again = describe(manifest, "-X", "importtime")

    assert again.stdout == first.stdout
    imported = {line.rpartition("|")[2].strip() for line in again.stderr.splitlines()}
    assert "tasks.preparation.prepare" in imported
    assert not imported & {"tensorflow", "keras", "h5py"}
    a, f = msgspec.json.decode(again.stdout, type=list[Described])
    assert (a.info.name, f.info.name) == ("a", "f")
    (used,) = [trial for trial in a.trials if trial["executor"] == a.info.executor]
    assert used["agrees"]
    assert used["batch_seconds"] == a.info.batch_seconds > 0
    assert f.trials == []


def test_without_a_cache_the_models_are_loaded_to_be_told(models: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "models.toml"
    manifest.write_text(f'[models.a]\npath = "{models}/digits.keras"\n')
    done = describe(manifest, CELERIAC_CACHE="/dev/null/nowhere")
    (a,) = msgspec.json.decode(done.stdout, type=list[Described])
    assert (a.info.executor, a.trials) == ("plain", [])
    assert a.info.note.startswith("no snapshot: Not a directory")


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        ("models =", ExitCode.USAGE, "is not TOML"),
        ('[models.a]\npath = "gone.keras"', ExitCode.MODEL, "model a cannot be loaded from"),
        ('[models.a]\npath = "bad.keras"', ExitCode.MODEL, "not a .keras file: it is no zip archive"),
        (
            '[models.a]\npath = "bad.keras"\ncalibration = "gone.npy"',
            ExitCode.MODEL,
            "gone.npy: No such file or directory",
        ),
    ],
)
def test_an_error_is_one_line_with_its_code(tmp_path: Path, text: str, code: ExitCode, words: str) -> None:
    (tmp_path / "models.toml").write_text(text)
    (tmp_path / "bad.keras").write_bytes(b"no model")
    done = describe(tmp_path / "models.toml")
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("celeriac: ")]
    assert (done.returncode, done.stdout) == (code, "")
    assert words in line
    assert "Traceback" not in done.stderr


def test_trials_whose_deviation_has_no_measure_are_not_made_again(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _TRIALS, str(tmp_path)], capture_output=True, text=True, check=False, env={**os.environ}
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "None the output is not finite at other places than the model's, 64 of 64"


_TRIALS = """
import sys, pathlib, numpy
from tasks.executors import EXECUTORS, Executor
from tasks.protocol.records import TensorSpec
from tasks.preparation import trials
from tasks.preparation.context import PreparationContext
from tasks.preparation.trials import known_trials, record_path
from tasks.snapshots.record import Snapshot
from tasks.preparation.reference import make_reference
from worker_config.manifest import ModelEntry
from worker_config.settings import Settings

def gives(factor):
    return Executor(False, "float32", None, lambda *_: lambda arrays: [arrays[0] * numpy.float32(factor)])

folder, entry = pathlib.Path(sys.argv[1]), ModelEntry("m")
ends = [TensorSpec("x", "float32", (None, 4))]
snapshot = Snapshot(1, "mapped", "d", "2", entry, ends, ends, [], 0, {})
EXECUTORS.update(graph=gives(2), wrong=gives(numpy.nan))
trials.candidates = lambda *_: (["graph", "wrong"], {})
make_reference(folder, snapshot, lambda arrays: [arrays[0] * numpy.float32(2)], 8)
context = PreparationContext.of(Settings(), 1, 1, print)
found = trials.trials_here("digits", folder, snapshot, entry, context)
assert known_trials(folder, record_path(folder, entry, 1, context.gpus)) == found
print(found.trials[1].error, found.trials[1].why)
"""
