"""What most tests here talk to their module's `system` with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from producer import Client
from tests.systems import System


@pytest.fixture
def client(system: System) -> Iterator[Client]:
    """A client that shares the system's spool folder, where there is one."""
    spool = system.folder / "spool"
    with Client(settings=system.settings(spool=spool if spool.exists() else None)) as client:
        yield client


@pytest.fixture
def server(system: System) -> Iterator[redis.Redis]:
    """The system's Redis."""
    with system.admin() as server:
        yield server


@pytest.fixture
def out(system: System, request: pytest.FixtureRequest) -> Path:
    """An empty folder to which workers may write, of a system of `tests.split_writes.writing`."""
    folder = system.folder / "out" / str(abs(hash(request.node.name)))
    folder.mkdir()
    return folder
