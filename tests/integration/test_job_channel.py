"""A job's channel to several Redis servers, of which some are full, refuse us, or come and go; without workers."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from producer.broker import redis_backoff
from producer.broker.job_channel import JobChannel
from tasks.protocol import keys
from tasks.protocol.messages import MAX_INLINE_BYTES, Outputs, RedisRef
from tests.seals import outputs_ref, sealed_answer
from tests.shards import bare_servers
from tests.systems import RedisServer
from tests.waiting import wait_until
from worker_config.errors import BrokerError, BrokerFullError, BrokerRefusedError
from worker_config.settings import Settings

JOB = "0123456789ab"
LARGE = [bytes(2 * MAX_INLINE_BYTES)]
# Of the two shards.
QUEUES = ["celeriac.ab", "celeriac.ab@1"]


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[list[RedisServer]]:
    with bare_servers(tmp_path, 2) as servers:
        yield servers


@pytest.fixture
def channel(servers: list[RedisServer]) -> Iterator[JobChannel]:
    url = ",".join(server.url for server in servers)
    with closing(JobChannel(url, Settings(broker_url=url), JOB)) as channel:
        channel.look()
        yield channel


def limit(server: RedisServer, maxmemory: int) -> None:
    with server.admin() as admin:
        admin.config_set("maxmemory", maxmemory)


def ask_for(server: RedisServer, password: str) -> None:
    with server.admin() as admin:
        admin.config_set("requirepass", password)
        admin.client_kill_filter(_type="normal", skipme=True)


def wait_for(channel: JobChannel) -> None:
    """As a job does, but not for ever."""
    ends_at = time.monotonic() + 30
    channel.wait_until_up(0, threading.Event(), lambda: time.monotonic() > ends_at)


def are_up(channel: JobChannel) -> list[bool]:
    return [channel.is_up(queue) for queue in QUEUES]


def wait_until_back(channel: JobChannel) -> None:
    def are_all() -> bool:
        channel.look()
        return all(are_up(channel))

    wait_until(are_all, "both shards are used again")


def test_a_full_shard_is_left_alone_and_its_answers_are_taken(servers: list[RedisServer], channel: JobChannel) -> None:
    kept = channel.put(0, LARGE, QUEUES[1])
    ready = Outputs(JOB, 0, 0, 1, "w/0", 0.1, outputs_ref(JOB, 0, np.zeros(1)))
    with servers[1].admin() as admin:
        admin.rpush(keys.results(JOB), sealed_answer(ready))
        limit(servers[1], 1)
        assert isinstance(channel.put(1, LARGE, QUEUES[1]), RedisRef)
        assert channel.lost == {1}
        assert are_up(channel) == [True, False]
        assert channel.on_each(lambda client: client.set("x", 1)) == {0: True}
        assert [answer.index for answer in channel.take_answers()] == [0]
        channel.release([kept], QUEUES[1])
        assert not admin.exists(keys.payload(JOB, 0))
    limit(servers[1], 0)
    wait_until_back(channel)


def test_the_last_one_that_is_full_is_the_jobs_to_wait_for(servers: list[RedisServer], channel: JobChannel) -> None:
    for server in servers:
        limit(server, 1)
    channel.put(0, LARGE, QUEUES[1])
    for _ in range(2):
        with pytest.raises(BrokerFullError):
            channel.put(0, LARGE, QUEUES[0])
    limit(servers[1], 0)
    wait_until(lambda: [wait_for(channel), all(are_up(channel))][1], "the other one is used again")
    channel.put(0, LARGE, QUEUES[1])
    channel.put(0, LARGE, QUEUES[0])
    assert are_up(channel) == [False, True]


def test_a_full_one_is_better_than_none(servers: list[RedisServer], channel: JobChannel) -> None:
    limit(servers[0], 1)
    channel.put(0, LARGE, QUEUES[0])
    servers[1].stop()
    channel.put(0, LARGE, QUEUES[1])
    assert are_up(channel) == [True, False]
    with pytest.raises(BrokerFullError):
        channel.put(0, LARGE, QUEUES[0])


def test_a_shard_without_room_gets_no_chunks_and_does_not_bound_those_of_others(
    servers: list[RedisServer], channel: JobChannel
) -> None:
    with servers[1].admin() as admin:
        limit(servers[1], int(1.2 * admin.info("memory")["used_memory"]))
    assert channel.redis_room(QUEUES[1:]) < 0
    assert channel.redis_room(QUEUES) == float("inf")
    assert are_up(channel) == [True, False]
    limit(servers[1], 0)
    channel.redis_room(QUEUES)
    assert all(are_up(channel))


def test_shards_that_all_refuse_the_login_for_long_end_the_wait(
    servers: list[RedisServer], channel: JobChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_backoff, "REFUSED_WAIT_SECONDS", 0.0)
    for server in servers:
        ask_for(server, "another")
    with pytest.raises(BrokerError):
        channel.look()
    with pytest.raises(BrokerRefusedError):
        wait_for(channel)


def test_one_that_refuses_the_login_for_long_is_not_counted_on_and_asked_on(
    servers: list[RedisServer], channel: JobChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_backoff, "REFUSED_WAIT_SECONDS", 0.0)
    ask_for(servers[1], "another")
    channel.look()
    assert not channel.is_whole
    wait_until(lambda: channel.is_whole, "nobody counts on it")
    assert are_up(channel) == [True, False]
    with servers[1].admin(retries=0) as admin:
        admin.connection_pool.connection_kwargs["password"] = "another"
        admin.config_set("requirepass", "")
    wait_until_back(channel)


def test_one_that_is_back_and_gone_again_is_waited_for(servers: list[RedisServer], channel: JobChannel) -> None:
    for server in servers:
        server.stop()
    with pytest.raises(BrokerError):
        channel.look()
    servers[0].start()
    wait_until(lambda: channel._outages[0].is_over, "it is back")
    servers[0].stop()
    wait_for(channel)
    with pytest.raises(BrokerError):
        channel.look()
