"""Scripts are run by a real Redis, also by one that has forgotten them."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis
from kombu import Connection, Exchange, Queue
from redis._parsers.base import BaseParser
from redis.exceptions import OutOfMemoryError

from tasks.protocol import keys
from tasks.protocol.messages import InlineRef, Outputs
from tasks.transport import queues, scripts
from tasks.transport.connection import know_errors_of_all
from tests.seals import push
from tests.systems import System

JOB = "0123456789ab"
NAMES = sorted(path.stem for path in Path(scripts.__file__).parent.glob("*.lua"))


@pytest.fixture
def server(system: System) -> redis.Redis:
    return system.admin()


@pytest.mark.parametrize("name", NAMES)
def test_redis_understands_each_script(server: redis.Redis, name: str) -> None:
    assert "-- include" not in scripts.text_of(name)
    assert server.script_load(scripts.text_of(name))


def test_a_script_runs_once_where_redis_has_forgotten_it(server: redis.Redis) -> None:
    server.hset(keys.job(JOB), "state", "running")
    for answers in (1, 2):
        server.script_flush()
        assert push(server, Outputs(JOB, 0, 0, 1, "slot", 0.0, InlineRef(b"")), 60)
        assert server.llen(keys.results(JOB)) == answers


@pytest.mark.parametrize("transaction", [False, True])
def test_so_it_does_in_a_pipeline(server: redis.Redis, transaction: bool) -> None:
    server.hset(keys.job(JOB), "state", "running")
    for queue in ("first", "second"):
        with server.pipeline(transaction=transaction) as pipe:
            pipe.set(f"before {queue}", 1)
            queues.note(pipe, [queue])
            scripts.keep_job(pipe, JOB, 60)
            server.script_flush()
            pipe.execute()
    assert server.zrange(keys.QUEUES, 0, -1) == [b"first", b"second"]
    assert server.zrange(keys.JOBS, 0, -1) == [JOB.encode()]
    assert 0 < server.ttl(keys.job(JOB)) <= 60


def test_a_worker_knows_why_a_script_of_celery_was_refused(
    system: System, server: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BaseParser, "EXCEPTION_CLASSES", dict(BaseParser.EXCEPTION_CLASSES))
    monkeypatch.setattr(BaseParser, "parse_error", BaseParser.__dict__["parse_error"])
    know_errors_of_all()
    with Connection(system.url.replace("unix:", "redis+socket:")) as connection:
        reply = Queue("reply", Exchange("reply"), expires=10)(connection.default_channel)  # as of who asks all workers
        reply.exchange.declare()
        reply.queue_declare()
        server.config_set("maxmemory", 1)
        with pytest.raises(OutOfMemoryError):
            reply.queue_bind()
        server.config_set("maxmemory", 0)
        reply.queue_bind()
