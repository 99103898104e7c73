"""What a worker's main process keeps of messages, held against Celery's own event loop."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from multiprocessing import Pipe
from types import SimpleNamespace

import pytest
from kombu.asynchronous import ERR, WRITE, Hub
from kombu.transport import redis as transport

from tasks.worker import message_cost
from tests.waiting import wait_until


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    # What is patched for a whole process.
    monkeypatch.setattr(transport.Channel, "QoS", transport.Channel.QoS)
    monkeypatch.setattr(transport.Channel, "_create_client", transport.Channel._create_client)
    monkeypatch.setattr(message_cost, "LOOK_AT_TIMERS_SECONDS", 0.01)
    hub = Hub()
    yield hub
    hub.close()


def make_cheap(hub: Hub, busy: Collection[int] = ()) -> None:
    message_cost.make_cheap(hub, SimpleNamespace(_pool=SimpleNamespace(_busy_workers=busy)))


def test_timers_of_chunks_that_have_ended_are_forgotten_and_others_are_not(hub: Hub) -> None:
    make_cheap(hub)
    called: list[int] = []
    kept = [hub.call_later(3600.0, called.append, -1), hub.call_later(0.02, called.append, 1)]
    before = len(hub.timer._queue)
    for number in range(2_000):
        hub.call_later(600.0, called.append, number).cancel()

    def one_turn() -> bool:
        hub.fire_timers()
        return called == [1] and len(hub.timer._queue) < before

    wait_until(one_turn, "the timers are looked at")
    assert kept[0] in [one.entry for one in hub.timer._queue]
    assert called == [1]


def test_a_busy_child_s_pipe_is_not_watched_until_it_is_free(hub: Hub) -> None:
    reading, writing = os.pipe()
    busy = {writing}
    make_cheap(hub, busy)
    try:
        hub.add(writing, None, WRITE | ERR, consolidate=True)
        assert writing not in hub.writers
        busy.clear()
        hub.add(writing, None, WRITE | ERR, consolidate=True)
        assert writing in hub.writers
        assert writing in dict(hub.poller.poll(1.0))
        hub.remove_writer(writing)
        assert writing not in hub.writers
        assert not hub.poller.poll(0)
        hub.remove_writer(writing)  # as Celery does for each message
    finally:
        os.close(reading)
        os.close(writing)


def test_the_pipe_of_a_child_that_ends_is_not_watched_any_more(hub: Hub) -> None:
    make_cheap(hub)
    reading, writing = Pipe(duplex=False)
    try:
        hub.add(writing.fileno(), None, WRITE | ERR, consolidate=True)
        hub.remove_writer(writing)
        assert not hub.writers
        assert not hub.poller.poll(0)
    finally:
        reading.close()
        writing.close()


def test_what_reads_is_watched_whoever_is_busy(hub: Hub) -> None:
    reading, writing = os.pipe()
    try:
        make_cheap(hub, busy=[reading])
        hub.add_reader(reading, print)
        os.write(writing, b"x")
        assert reading in dict(hub.poller.poll(1.0))
    finally:
        os.close(reading)
        os.close(writing)
