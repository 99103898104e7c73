"""Fixtures that real systems are built from: models, a private Redis, workers."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.models import write_models, write_special_models
from tests.systems import System, serving

# Snapshots of models: found again by every test of a run, and gone after it.
_cache = tempfile.TemporaryDirectory(prefix="celeriac-tests-")
os.environ["XDG_CACHE_HOME"] = _cache.name

# A run in the background of a script has SIGINT ignored, and so would every command that a test wants to interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of whoever runs the tests must not reach them."""
    for name in [name for name in os.environ if name.startswith(("CELERIAC_", "CELERY_"))]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the well-behaved models; `models.toml` lists them."""
    folder = tmp_path_factory.mktemp("models")
    write_models(folder)
    return folder


@pytest.fixture(scope="session")
def special_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the models that misbehave, NAME.toml for each."""
    folder = tmp_path_factory.mktemp("special")
    write_special_models(folder)
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


@pytest.fixture(scope="module")
def running_system(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[System]:
    """A Redis and a worker with two children that hold the well-behaved models, shared by a module's tests."""
    folder = tmp_path_factory.mktemp("s")
    with serving(folder, models / "models.toml") as system:
        yield system
