"""What `celery control` may not do with a worker: some commands never, others by `CELERIAC_REMOTE_CONTROL`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import redis

from producer import Client
from tests.held import write_held_models
from tests.manifests import write_manifest
from tests.systems import System, serving
from tests.waiting import wait_until

ROWS = np.arange(32, dtype=np.float32).reshape(8, 4)
ALL, READ, OFF = NODES = "all@here", "read@here", "off@here"


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A worker for each value of the setting."""
    folder = tmp_path_factory.mktemp("s")
    manifest = write_manifest(folder, write_held_models(folder))
    with serving(folder) as system:
        for node in NODES:
            setting = {"CELERIAC_REMOTE_CONTROL": node.partition("@")[0]}
            worker = system.start_ready_worker(manifest, 1, "-n", node, environ=setting)
            wait_until(lambda worker=worker: " ready." in worker.output(), "the worker takes commands")
        yield system


def all_workers_are_up(system: System) -> bool:
    return {slot.worker.rpartition(":")[0] for slot in system.slots()} == set(NODES)


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        ("cancel_consumer celeriac.0123456789ab", "use `control drain`"),
        ("rate_limit celeriac.infer 1/m", "chunks have no rate limit"),
        ("time_limit celeriac.infer 1 2", "CELERIAC_CHUNK_TIMEOUT_SECONDS"),
    ],
)
def test_commands_that_producers_would_not_hear_of_are_refused(
    system: System, client: Client, words: str, advice: str
) -> None:
    queues_before = system.ask(ALL, "active_queues")
    told = system.celery("control", "-t", "20", "-d", ALL, *words.split())
    assert advice in told.stdout + told.stderr
    assert "Traceback" not in told.stdout + told.stderr
    assert system.ask(ALL, "active_queues") == queues_before
    np.testing.assert_array_equal(client.predict("held", ROWS, chunk_rows=1), ROWS * 2)


def test_a_worker_that_is_to_be_read_alone_answers_and_is_not_changed(system: System) -> None:
    children = system.ask(READ, "ready")
    assert children
    for command in ("drain", "pool_grow", "pool_shrink", "shutdown", "reload_models", "revoke", "add_consumer"):
        told = system.ask(READ, command)
        assert told == {"error": "CELERIAC_REMOTE_CONTROL lets nobody change this worker"}, command
    assert system.ask(READ, "ready")["ready"] == children["ready"]
    assert all_workers_are_up(system)
    assert "control command drain is not heeded" in system.workers[1].output()


def test_a_worker_without_remote_control_hears_nothing_and_runs_chunks(
    system: System, client: Client, server: redis.Redis
) -> None:
    ended = system.celery("inspect", "-t", "1", "-d", OFF, "ping")
    assert ended.returncode
    assert "pong" not in ended.stdout
    # It has no mailbox at all, where the others have theirs.
    mailboxes = b" ".join(server.smembers("celeriac:_kombu.binding.celery.pidbox")).decode()
    assert [node in mailboxes for node in NODES] == [True, True, False]
    for worker in system.workers[:2]:
        worker.stop()
    np.testing.assert_array_equal(client.predict("held", ROWS, chunk_rows=1), ROWS * 2)
