"""What a worker's main process keeps of messages, held against Celery's own event loop."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator
from multiprocessing import Pipe
from types import SimpleNamespace

import pytest
from celery.concurrency import asynpool
from kombu.asynchronous import ERR, WRITE, Hub
from kombu.transport import redis as transport
from kombu.utils.json import loads

from tasks.worker import message_cost
from tasks.worker.refused import AsItCame
from tests.waiting import wait_until


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    # What is patched for a whole process.
    monkeypatch.setattr(transport.Channel, "QoS", transport.Channel.QoS)
    monkeypatch.setattr(transport.Channel, "_create_client", transport.Channel._create_client)
    monkeypatch.setattr(asynpool, "iterate_file_descriptors_safely", asynpool.iterate_file_descriptors_safely)
    monkeypatch.setattr(message_cost, "LOOK_AT_TIMERS_SECONDS", 0.01)
    hub = Hub()
    yield hub
    hub.close()


def make_cheap(hub: Hub, busy: Collection[int] = frozenset()) -> None:
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
    busy, pipes = {writing}, {writing}
    make_cheap(hub, busy)

    def watch() -> None:  # as Celery does before each turn while a message waits
        asynpool.iterate_file_descriptors_safely(pipes, pipes, hub.add, None, WRITE | ERR, consolidate=True)

    def forget() -> None:  # and while none does
        asynpool.iterate_file_descriptors_safely(pipes, pipes, hub.remove_writer)

    try:
        watch()
        assert writing not in hub.writers
        busy.clear()
        watch()
        assert writing in hub.writers
        assert writing in dict(hub.poller.poll(1.0))
        forget()
        assert writing not in hub.writers
        assert not hub.poller.poll(0)
        forget()
        hub.remove_writer(writing)  # after it has written
        assert pipes == {writing}
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
        make_cheap(hub, busy={reading})
        pipes = {reading}
        asynpool.iterate_file_descriptors_safely(pipes, pipes, hub.add_reader, print, "*fd*")
        os.write(writing, b"x")
        assert reading in dict(hub.poller.poll(1.0))
    finally:
        os.close(reading)
        os.close(writing)


def test_a_message_is_held_as_it_came_and_as_celery_reads_it(hub: Hub) -> None:
    text = '{"body": "e30=", "headers": {"id": "\\u00fc 1"}, "properties": {"delivery_tag": "t"}}'
    place = {"exchange": "", "routing_key": 'a "queue"'}
    for message in (AsItCame(json.loads(text), text), json.loads(text)):
        assert loads(message_cost._held(message, place)) == [json.loads(text), "", 'a "queue"']
