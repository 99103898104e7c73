"""Which of several Redis servers a worker takes, where one that was killed still seems to live."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tasks.protocol.records import SlotRecord, WorkerFacts
from tasks.transport import worker_registry
from tasks.worker import home_shard
from tasks.worker.home_shard import choose_home
from tests.systems import RedisServer
from worker_config.retry_policy import HEARTBEAT_SECONDS


@pytest.fixture
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RedisServer]]:
    servers = [RedisServer(tmp_path_factory.mktemp("r")).start() for _ in range(2)]
    yield servers
    for server in servers:
        server.stop()


def beat(server: RedisServer, name: str) -> None:
    with server.admin() as client:
        slot = SlotRecord(name, 0, 1, time.time(), "celeriac.0123456789ab", [])
        worker_registry.heartbeat(client, name, [1], [slot], facts=WorkerFacts(children=1))


def chosen(servers: list[RedisServer]) -> int:
    urls = [server.url for server in servers]
    return urls.index(choose_home(",".join(urls)))


@pytest.mark.parametrize("killed", [0, 1])
def test_who_comes_after_one_that_was_killed_takes_its_shard(
    servers: list[RedisServer], killed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pass_time(seconds: float) -> None:
        assert seconds > HEARTBEAT_SECONDS
        beat(servers[1 - killed], "celery@lives:t")

    monkeypatch.setattr(home_shard.time, "sleep", pass_time)
    beat(servers[killed], "celery@killed:t")
    beat(servers[1 - killed], "celery@lives:t")

    assert [chosen(servers) for _ in servers] == [killed] * 2, "whosever turn it is"


def test_workers_that_live_are_told_from_those_that_do_not_only_where_it_matters(
    servers: list[RedisServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    def pass_time(_: float) -> None:
        raise AssertionError("nobody is waited for")

    monkeypatch.setattr(home_shard.time, "sleep", pass_time)
    assert {chosen(servers) for _ in servers} == {0, 1}
    beat(servers[0], "celery@lives:t")
    assert chosen(servers) == 1


def test_workers_that_live_all_count(servers: list[RedisServer], monkeypatch: pytest.MonkeyPatch) -> None:
    def beat_all(_: float = 0) -> None:
        for place, server in enumerate(servers):
            beat(server, f"celery@{place}:t")

    monkeypatch.setattr(home_shard.time, "sleep", beat_all)
    beat_all()
    assert {chosen(servers) for _ in servers} == {0, 1}, "in turn"
