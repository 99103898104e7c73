"""Parts of a worker that need no worker: the guard before the fork, reports of children, digests, stray modules."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from producer.cli.models import describe
from tasks.child.child_pipe import ChildPipe, report
from tasks.models.model_version import model_digest
from worker_config.environment import check_no_shadow
from worker_config.errors import ConfigError, ExitCode, ModelLoadError, WorkerStartError
from worker_config.retry_policy import MAX_SILENT_DEATHS


def in_fresh_interpreter(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_guard_tells_an_import_from_an_operation() -> None:
    """It reads a private name of TensorFlow's: this pins what that name means."""
    shown = in_fresh_interpreter(
        "from tasks.worker.fork_guard import tensorflow_ran_here as ran; print(ran(), end=' ')\n"
        "import tensorflow as tf, keras; print(ran(), end=' ')\n"
        "tf.constant(1.0); print(ran())"
    )
    assert shown == "False False True"


def test_tensorflow_comes_without_what_nobody_needs_and_functions_can_import_it_all_the_same() -> None:
    shown = in_fresh_interpreter(
        "import os, sys\n"
        "os.environ['OPENBLAS_NUM_THREADS'] = '1'\n"
        "from tasks.models.tensorflow_import import import_tensorflow\n"
        "import_tensorflow()\n"
        "names = ('tensorflow', 'keras', 'sklearn', 'pandas', 'pyarrow')\n"
        "print(*(name in sys.modules for name in names), len(os.listdir('/proc/self/task')), end=' ')\n"
        "import sklearn.datasets, pandas; print(len(pandas.DataFrame(sklearn.datasets.load_digits().data)))"
    )
    assert shown == "True True False False False 1 1797", "a process that is to be forked has one thread"


def test_a_child_s_word_reaches_the_main_process() -> None:
    reports = ChildPipe()
    report(reports.write_fd, ready=0)
    report(reports.write_fd, ready=1)
    reports.read()
    assert reports.ready == 2
    report(reports.write_fd, failed="model a cannot be loaded: \n" + "x" * 10_000)
    with pytest.raises(ModelLoadError, match="model a cannot be loaded"):
        reports.read()


def test_children_that_die_without_a_word_are_not_tried_for_ever() -> None:
    reports = ChildPipe()
    reports.forks = 2 + MAX_SILENT_DEATHS - 1
    reports.check_silent_deaths(children=2)
    reports.forks += 1
    with pytest.raises(WorkerStartError, match="without a word"):
        reports.check_silent_deaths(children=2)


def test_a_digest_is_of_names_and_contents(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        (folder / "sub").mkdir(parents=True)
        (folder / "sub" / "a").write_bytes(b"1")
    assert model_digest(first) == model_digest(second)
    (second / "sub" / "a").rename(second / "sub" / "b")
    assert model_digest(first) != model_digest(second)
    assert model_digest(first / "sub" / "a") != model_digest(first)
    with pytest.raises(FileNotFoundError):
        model_digest(tmp_path / "none")


@pytest.mark.parametrize("stray", ["tasks.py", "tasks/__init__.py", "producer.py", "worker_config/__init__.py"])
def test_a_stray_module_in_the_folder_is_named(tmp_path: Path, stray: str) -> None:
    check_no_shadow(tmp_path)
    (tmp_path / stray).parent.mkdir(exist_ok=True)
    (tmp_path / stray).touch()
    with pytest.raises(ConfigError, match=stray):
        check_no_shadow(tmp_path)


def test_the_checkout_itself_is_no_stray() -> None:
    check_no_shadow(Path(__file__).parents[2])


@pytest.mark.parametrize("stray", ["tasks.py", "tasks/__init__.py", "worker_config.py"])
@pytest.mark.parametrize("is_there_already", [False, True])
def test_a_program_beside_a_stray_module_is_told_of_it(tmp_path: Path, stray: str, is_there_already: bool) -> None:
    (tmp_path / stray).parent.mkdir(exist_ok=True)
    (tmp_path / stray).touch()
    name = stray.removesuffix(".py").partition("/")[0]
    (tmp_path / "score.py").write_text(f"import {name}\n" * is_there_already + "from producer import Client\n")
    done = subprocess.run([sys.executable, "score.py"], capture_output=True, text=True, check=False, cwd=tmp_path)
    error = "ImportError" if name == "worker_config" else "worker_config.errors.ConfigError"
    told = f"{error}: {tmp_path / stray} hides Celeriac's package `{name}` from this program; rename it, "
    assert done.stderr.splitlines()[-1].startswith(told)


def test_a_command_that_finds_a_stray_module_on_the_path_says_so_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "tasks.py").touch()
    done = subprocess.run(
        [Path(sys.executable).with_name("celeriac"), "--help"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == ExitCode.USAGE
    assert done.stderr.startswith(f"celeriac: {tmp_path}/tasks.py hides Celeriac's package `tasks` from this program;")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_what_runs_as_a_module_of_its_own_is_not_taken_from_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tasks.py").touch()
    (tmp_path / "models.toml").write_text("[models.decode]\npreprocess = 'steps:decode'\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"tasks.py hides"):
        describe(tmp_path / "models.toml")
