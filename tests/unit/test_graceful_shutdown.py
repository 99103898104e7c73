"""A worker that is asked to end: what the signal's handler does where there is no connection, or soon none any more."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from celery.worker import state

from tasks.worker.graceful_shutdown import GracefulShutdown
from tests.waiting import wait_until


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    handler = signal.getsignal(signal.SIGALRM)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, signal.SIG_IGN)  # one may wait for another thread of a busy machine; it is dropped
    signal.signal(signal.SIGALRM, handler)
    state.should_stop = None


def test_without_a_connection_it_ends_at_once(tmp_path: Path) -> None:
    GracefulShutdown(SimpleNamespace(consumer=SimpleNamespace(connection=None)), tmp_path).begin()
    assert state.should_stop == 0


def test_a_connection_that_is_lost_after_the_signal_does_not_keep_it(tmp_path: Path) -> None:
    consumer = SimpleNamespace(connection=object())
    GracefulShutdown(SimpleNamespace(consumer=consumer), tmp_path).begin()
    assert state.should_stop is None
    consumer.connection = None
    wait_until(lambda: state.should_stop == 0, "it ends")


def test_a_second_signal_is_for_the_impatient(tmp_path: Path) -> None:
    ending = GracefulShutdown(SimpleNamespace(consumer=SimpleNamespace(connection=object())), tmp_path)
    ending.begin()
    ending.begin()
    assert state.should_stop == 0
