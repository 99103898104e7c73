"""Copies of one chunk that run at a time: what is noted of each, and what their deaths tell."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from tasks.protocol import keys
from tasks.protocol.messages import MESSAGE_VERSION, ChunkMessage, FailureRecord, InlineRef, ModelRef
from tasks.recovery import delivery_log
from tasks.recovery.delivery_log import DeliveryHistory, DeliveryLog
from tasks.recovery.poison_rows import ChildDeath, PoisonRows, RowRange
from tests.seals import SEALER
from tests.systems import System

MESSAGE = ChunkMessage(MESSAGE_VERSION, "00000000beef", 7, 0, 64, None, [ModelRef("a", "0" * 64)], InlineRef(b""))
WORKER = "w@h:1"
BATCH = 16


@pytest.fixture
def server(system: System) -> Iterator[redis.Redis]:
    """A worker is up, and the chunk was delivered to several of its children."""
    with system.admin() as server:
        server.set(keys.worker(WORKER), "")
        server.hset(keys.deliveries(MESSAGE.job), "7", "3")
        yield server


def note(server: redis.Redis, monkeypatch: pytest.MonkeyPatch, pid: int, step: RowRange) -> None:
    monkeypatch.setattr(delivery_log.os, "getpid", lambda: pid)
    DeliveryLog(server, SEALER, MESSAGE).record_intent(WORKER, step)


def die(server: redis.Redis, pid: int, error_type: str = "WorkerLostError") -> None:
    DeliveryLog(server, SEALER, MESSAGE).record_death(ChildDeath(WORKER, pid, error_type, "by a signal"))


def test_the_death_of_a_copy_beside_the_one_that_noted_tells_nothing(
    server: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    note(server, monkeypatch, 12, RowRange(16, 32, 32))
    die(server, 11)
    history = DeliveryLog(server, SEALER, MESSAGE).read()
    assert (history.death, history.deaths) == (None, 0)
    assert history.judge(BATCH) == (None, None)

    die(server, 12)
    die(server, 13)  # later, before it noted anything
    history = DeliveryLog(server, SEALER, MESSAGE).read()
    assert (history.death and history.death.pid, history.deaths) == (12, 2)
    assert history.judge(BATCH) == (PoisonRows(16, 32, 1), None)


def test_deaths_count_where_nothing_is_noted(server: redis.Redis) -> None:
    for pid in (11, 12):
        die(server, pid)
    assert DeliveryLog(server, SEALER, MESSAGE).read().deaths == 2


def test_a_child_that_was_stopped_is_no_death(server: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    note(server, monkeypatch, 12, RowRange(16, 32, 32))
    die(server, 12, "")
    history = DeliveryLog(server, SEALER, MESSAGE).read()
    assert (history.deaths, history.judge(BATCH)) == (0, (None, None))


def test_condemned_rows_stay_and_what_led_to_them_goes(server: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    note(server, monkeypatch, 12, RowRange(16, 17, 32))
    die(server, 12)
    poison_rows, condemned = DeliveryLog(server, SEALER, MESSAGE).read().judge(BATCH)
    assert condemned == FailureRecord(16, 17, "worker", "WorkerLostError", "by a signal")
    assert poison_rows == PoisonRows(17, 32, 1)
    DeliveryLog(server, SEALER, MESSAGE).exclude_rows([condemned])
    assert DeliveryLog(server, SEALER, MESSAGE).read() == DeliveryHistory(deaths=1, bad=[condemned])


def test_of_a_chunk_that_is_answered_nothing_is_noted(server: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    server.delete(keys.deliveries(MESSAGE.job))
    note(server, monkeypatch, 12, RowRange(16, 32, 32))
    die(server, 12)
    DeliveryLog(server, SEALER, MESSAGE).exclude_rows([])
    assert not server.exists(keys.deliveries(MESSAGE.job))


def test_a_delivery_of_rows_that_kill_yields_once_to_each_note_of_one_that_may_live(
    server: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    def yields(pid: int) -> bool:
        monkeypatch.setattr(delivery_log.os, "getpid", lambda: pid)
        log = DeliveryLog(server, SEALER, MESSAGE)
        return log.yields(WORKER, log.read())

    assert not yields(13)  # nothing is noted
    note(server, monkeypatch, 11, RowRange(0, 16, 64))
    assert not yields(13)  # no row is known to kill
    die(server, 11)
    assert not yields(13)  # whoever noted it is dead
    for step in (RowRange(0, 4, 16), RowRange(4, 8, 16)):
        note(server, monkeypatch, 12, step)
        assert [yields(12), yields(13), yields(14)] == [False, True, False]
    server.delete(keys.worker(WORKER))
    assert not yields(13)  # its worker is gone
