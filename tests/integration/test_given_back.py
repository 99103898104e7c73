"""Messages that a worker gives back and another one takes, or it itself, before Redis knows what is acknowledged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis
from kombu import Connection
from kombu.asynchronous import Hub
from kombu.transport import redis as transport

from tasks.protocol import keys
from tasks.worker.message_cost import Acknowledgements
from tests.systems import System
from worker_config.celery_app import celery_settings

QUEUE = "celeriac.0123456789ab"


@pytest.fixture
def channels(system: System, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, Any]]:
    """Those of two workers, with a queue of three messages."""
    monkeypatch.setattr(transport.Channel, "QoS", Acknowledgements)
    monkeypatch.setattr(Acknowledgements, "hub", Hub())
    url = system.url.replace("unix:", "redis+socket:")
    options = celery_settings(system.settings())["broker_transport_options"]
    with Connection(url, transport_options=options) as one, Connection(url, transport_options=options) as other:
        with one.SimpleQueue(QUEUE) as queue:
            for number in range(3):
                queue.put(number)
        yield one.channel(), other.channel()
    Acknowledgements.hub.close()


@contextmanager
def configured(system: System, limit: str) -> Iterator[None]:
    """A Redis with this limit at 1, which is 0 else."""
    with system.admin() as server:
        server.config_set(limit, 1)
        try:
            yield
        finally:
            server.config_set(limit, 0)


def held(system: System) -> set[str]:
    with system.admin() as server:
        return {tag.decode() for tag in server.hkeys(keys.UNACKED)}


def give_back(channel: Any, tag: str) -> None:
    channel.qos.give_back(tag)


def give_back_and_reject(channel: Any, tag: str) -> None:
    channel.qos.give_back(tag)
    channel.basic_reject(tag, requeue=True)


def reject(channel: Any, tag: str) -> None:
    channel.basic_reject(tag, requeue=True)


@pytest.mark.parametrize("back", [give_back, give_back_and_reject])
@pytest.mark.parametrize("taker", [0, 1], ids=["itself", "another"])
def test_a_message_given_back_is_the_next_and_whoever_takes_it_holds_it(
    system: System, channels: tuple[Any, Any], taker: int, back: Callable[[Any, str], None]
) -> None:
    giver, taking = channels[0], channels[taker]
    first = giver.basic_get(QUEUE)
    back(giver, first.delivery_tag)
    assert not held(system)
    taken = taking.basic_get(QUEUE)
    assert taken.delivery_tag == first.delivery_tag
    _acknowledges(giver, giver.basic_get(QUEUE).delivery_tag)
    assert held(system) == {taken.delivery_tag}


@pytest.mark.parametrize("taker", [0, 1], ids=["itself", "another"])
def test_a_message_that_is_rejected_is_the_last_and_whoever_takes_it_holds_it(
    system: System, channels: tuple[Any, Any], taker: int
) -> None:
    giver, taking = channels[0], channels[taker]
    first = giver.basic_get(QUEUE)
    giver.basic_reject(first.delivery_tag, requeue=True)
    assert not held(system)
    second, _, again = (taking.basic_get(QUEUE) for _ in range(3))
    assert again.delivery_tag == first.delivery_tag
    _acknowledges(taking, second.delivery_tag)
    _acknowledges(giver)
    assert again.delivery_tag in held(system)


def test_a_message_that_another_one_has_taken_is_not_rejected_with_it(
    system: System, channels: tuple[Any, Any]
) -> None:
    giver, taker = channels
    first = giver.basic_get(QUEUE)
    giver.qos.give_back(first.delivery_tag)
    taken = taker.basic_get(QUEUE)
    giver.basic_reject(first.delivery_tag, requeue=True)
    assert held(system) == {taken.delivery_tag}
    assert [taker.basic_get(QUEUE).decode() for _ in range(2)] == [1, 2]
    assert taker.basic_get(QUEUE) is None


def close(channel: Any, tag: str) -> None:
    channel.close()


@pytest.mark.parametrize("back", [give_back, reject, close])
def test_a_message_is_given_back_though_redis_is_full(
    system: System, channels: tuple[Any, Any], back: Callable[[Any, str], None]
) -> None:
    giver, taker = channels
    tag = giver.basic_get(QUEUE).delivery_tag
    with configured(system, "maxmemory"):
        back(giver, tag)
    assert not held(system)
    assert tag in [taker.basic_get(QUEUE).delivery_tag for _ in range(3)]


@pytest.mark.parametrize("back", [give_back, reject])
def test_a_worker_connects_again_where_a_message_cannot_be_given_back(
    system: System, channels: tuple[Any, Any], back: Callable[[Any, str], None]
) -> None:
    """Its end gives back all that the worker still has."""
    giver, taker = channels
    tag = giver.basic_get(QUEUE).delivery_tag
    with configured(system, "min-replicas-to-write"), pytest.raises(redis.RedisError, match="NOREPLICAS"):
        back(giver, tag)
    with pytest.raises(redis.RedisError, match="NOREPLICAS"):
        Acknowledgements.hub.run_once()
    giver.close()
    assert not held(system)
    assert tag in [taker.basic_get(QUEUE).delivery_tag for _ in range(3)]


def _acknowledges(channel: Any, *tags: str) -> None:
    for tag in tags:
        channel.basic_ack(tag)
    channel.qos._tell()
