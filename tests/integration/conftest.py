"""What most tests here talk to their module's `system` with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from producer import Client
from tasks.protocol.rights import PRODUCER
from tasks.transport.connection import connect
from tests.systems import System
from worker_config.settings import Settings


@pytest.fixture
def client(system: System) -> Iterator[Client]:
    """A client that shares the system's spool folder, where there is one."""
    spool = system.folder / "spool"
    url = system.redis.url_as(PRODUCER)
    settings = Settings(broker_url=url, spool=spool if spool.exists() else None)
    with Client(url, settings=settings) as client:
        yield client


@pytest.fixture
def server(system: System) -> Iterator[redis.Redis]:
    """The system's Redis."""
    with connect(system.url) as server:
        yield server
