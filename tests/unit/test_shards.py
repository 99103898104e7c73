"""Several Redis servers: how they are named in a setting, which one a worker takes, which one a request."""

from __future__ import annotations

import pytest

from producer.broker.shard_clients import for_each
from producer.broker.shards import name_of, on_shard, shard_of
from producer.detached.part_channels import PartChannels
from producer.requests.shards import ShardFinder, least_waiting
from tasks.worker.home_shard import Shard, least_loaded
from worker_config.broker import check_broker_url, redacted, shard_urls
from worker_config.errors import BrokerError, ConfigError
from worker_config.retry_policy import (
    JOB_COMMAND_RETRIES,
    SHARD_COMMAND_RETRIES,
    SHARD_TIMEOUT_SECONDS,
    SOCKET_TIMEOUT_SECONDS,
)
from worker_config.settings import Settings

SENTINELS = "sentinel://:secret@a,b:7/main/2"


def test_a_comma_before_a_scheme_parts_urls_and_no_other() -> None:
    assert shard_urls("redis://host") == ["redis://host"]
    assert shard_urls(f"redis://host/1,{SENTINELS},unix:///run/r.sock") == [
        "redis://host/1",
        SENTINELS,
        "unix:///run/r.sock",
    ]
    assert shard_urls("redis://:a,b@host,rediss://host") == ["redis://:a,b@host", "rediss://host"]


@pytest.mark.parametrize(
    "url",
    [
        f"redis://u:secret@a,{SENTINELS}",
        "redis://a,redis://u:secret@b?password=secret",
        "redis://:secret,redis://more-of-secret@b",  # one, which ought to have %2C
    ],
)
def test_no_password_of_several_is_shown(url: str) -> None:
    shown = redacted(url)
    assert shown
    assert "secret" not in shown
    assert "***" in shown


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("redis://a,redis://:secret@a:6379/0", "shard 2, is named before"),
        ("unix:///r.sock,redis://a,redis+socket:///r.sock", "shard 3, is named before"),
        ("redis://a,http://b", "shard 2, is not a Redis URL"),
        ("redis://a,redis://b/x", "shard 2, is not a Redis URL: it has 'x' in the place of the database"),
        ("redis://:secret,redis://more@b", "shard 1, is not a Redis URL"),
    ],
)
def test_what_is_wrong_with_one_of_several_is_said(url: str, why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_broker_url(url, "-b")
    assert why in str(caught.value)
    assert "secret" not in str(caught.value)


def test_two_databases_of_a_server_are_two_shards() -> None:
    assert check_broker_url("redis://a/0,redis://a/1", "-b")


def test_queues_have_names_by_shard() -> None:
    assert [on_shard("celeriac.ab", shard) for shard in (0, 12)] == ["celeriac.ab", "celeriac.ab@12"]
    assert [(name_of(one), shard_of(one)) for one in ("celeriac.ab", "celeriac.ab@12")] == [
        ("celeriac.ab", 0),
        ("celeriac.ab", 12),
    ]


def test_one_that_did_not_answer_is_not_waited_for_again_at_once_while_others_answer() -> None:
    asked: list[str] = []

    def ask(url: str) -> str:
        asked.append(url)
        if "away" in url:
            raise BrokerError("it is away")
        return url

    assert [for_each("redis://away-1,redis://b", ask) for _ in range(2)] == [{1: "redis://b"}] * 2
    assert asked == ["redis://away-1", "redis://b", "redis://b"]


def test_those_that_did_not_answer_are_asked_again_where_there_are_no_others() -> None:
    asked: list[str] = []

    def ask(url: str) -> str:
        asked.append(url)
        raise BrokerError("it is away")

    for _ in range(2):
        with pytest.raises(BrokerError):
            for_each("redis://away-2,redis://away-3", ask)
    assert asked == ["redis://away-2", "redis://away-3"] * 2


def shards(*loads: tuple[int, int]) -> list[Shard]:
    return [Shard(f"redis://{place}", place, *load) for place, load in enumerate(loads)]


def test_a_worker_takes_the_shard_with_fewest_workers_then_slots() -> None:
    assert least_loaded(shards((2, 2), (1, 64), (1, 8)), turn=0).place == 2


def test_workers_that_start_together_take_turns() -> None:
    empty = shards((0, 0), (0, 0), (0, 0))
    assert [least_loaded(empty, turn).place for turn in range(6)] == [0, 1, 2, 0, 1, 2]
    assert least_loaded([empty[0], empty[2]], turn=1).place == 2  # while the second is away


def test_a_request_goes_where_fewest_wait_for_each_slot() -> None:
    assert least_waiting({0: 2, 1: 4}, {0: 1, 1: 2}.__getitem__) == 1
    assert least_waiting({0: 2, 1: 4}, {0: 0, 1: 2}.__getitem__) == 0
    assert least_waiting({}, lambda _: 0) == 0  # where the first tells what is wrong


def test_who_waits_for_a_detached_job_waits_for_one_of_several_shards_for_seconds_and_who_leaves_one_longer() -> None:
    def patience(urls: str, **options: bool) -> list[tuple[float, int]]:
        channels = PartChannels(Settings(broker_url=urls), "0123456789ab", **options)
        known = [channels[shard].client.connection_pool.connection_kwargs for shard in range(len(channels.shards.urls))]
        return [(one["socket_timeout"], one["retry"].get_retries()) for one in known]

    long, short = (SOCKET_TIMEOUT_SECONDS, JOB_COMMAND_RETRIES), (SHARD_TIMEOUT_SECONDS, SHARD_COMMAND_RETRIES)
    assert patience("redis://a") == [long]
    assert patience("redis://a,redis://b") == [short, short]
    assert patience("redis://a,redis://b", waits=True) == [long, long]


def test_with_one_server_nobody_asks_which() -> None:
    def find(names: list[str], until: float | None) -> None:
        raise AssertionError("asked")

    finder = ShardFinder("redis://a", find)  # type: ignore[arg-type]
    assert finder.slots(["digits"]) == {0: 1}
    assert finder.on(0) is find
