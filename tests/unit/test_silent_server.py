"""A server that accepts connections and answers nothing, as one that stands still does."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest
import redis

from tasks.transport.connection import connect


def test_a_connection_that_was_idle_is_made_as_often_as_it_may_be(tmp_path: Path) -> None:
    retries = 1
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "silent"))
        server.listen(100)
        server.setblocking(False)
        with connect(f"unix://{tmp_path}/silent", retries=retries, timeout_seconds=0.1) as client:
            connection = client.connection_pool.make_connection()
            connection.next_health_check = time.monotonic() - 1
            with pytest.raises(redis.TimeoutError):
                connection.connect()
            for _ in range(1 + retries):
                server.accept()[0].close()
            with pytest.raises(BlockingIOError):
                server.accept()
