"""Users of Redis that may do what they need and nothing else: all works with them, and each right is used."""

from __future__ import annotations

import fnmatch
import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.request import urlopen

import numpy as np
import pytest
import redis

from producer import Client
from tasks.protocol import keys
from tasks.protocol.rights import OPERATOR, PRODUCER, ROLES, WATCHER, WORKER, Role
from tasks.transport.connection import connect
from tests.held import held_child, holding, write_held_models
from tests.manifests import write_manifest
from tests.metrics import free_port
from tests.systems import BIN, PASSWORD, RedisServer, System
from tests.waiting import wait_until
from worker_config.queue_names import KEY_PREFIX

ROWS = np.arange(240, dtype=np.float32).reshape(60, 4)
HELD = ROWS[30, 0]
FUNCTIONS = """
def picky(rows):
    if 8 in rows:
        raise ValueError("a row that I do not like")
    return rows
"""
DONE = "all was seen"
# What is used after a mishap that cannot be had at will.
RARE = {
    "worker": {"unwatch"},  # an error between WATCH and EXEC
    "producer": set[str](),
    "watcher": set[str](),
    "operator": {"unwatch", "punsubscribe"},  # the end of a command that listens to events
}


@dataclass
class SeenServer(RedisServer):
    """A server with a user for each role; what comes in by its port, as one of them does, is told apart."""

    seen: Role = WORKER
    # Not the first one: channels have its number.
    database: int = 1
    port: int = field(default_factory=free_port)

    def __post_init__(self) -> None:
        self.options, self.least_rights = ("--port", str(self.port)), True

    def url_as(self, role: Role) -> str:
        if role is self.seen:
            return f"redis://{role.name}:{PASSWORD}@127.0.0.1:{self.port}/{self.database}"
        return super().url_as(role)

    @contextmanager
    def seeing(self) -> Iterator[tuple[set[str], set[str]]]:
        """Commands that the role seen uses, those within its scripts too, and channels, when the block has ended."""
        used, channels = set[str](), set[str]()
        begun = threading.Event()

        def look() -> None:
            patient = redis.Redis(unix_socket_path=str(self.socket), socket_timeout=None)
            with patient as client, client.monitor() as monitor:
                begun.set()
                caller = ""
                for one in monitor.listen():
                    if one["client_type"] != "lua":
                        caller = one["client_type"]
                    if DONE in one["command"]:
                        return
                    if caller == "tcp":
                        words = one["command"].lower().split()
                        channels.update(words[1:] if words[0] in ("publish", "psubscribe") else ())
                        used.add("|".join(words[: 1 + (words[0] == "script")]))

        thread = threading.Thread(target=look)
        thread.start()
        begun.wait(30)
        try:
            yield used, channels
        finally:
            with redis.Redis(unix_socket_path=str(self.socket)) as client:
                client.echo(DONE)
            thread.join()


@pytest.fixture
def system(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A server that sees the test's role, and no worker yet."""
    folder = tmp_path_factory.mktemp("s")
    (folder / "my_functions.py").write_text(FUNCTIONS)
    write_manifest(folder, {**write_held_models(folder), "picky": {"path": "my_functions:picky", "batch_rows": 5}})
    system = System(SeenServer(folder, seen=request.param).start(), folder)
    yield system
    system.stop()


def seen_server(system: System) -> SeenServer:
    return cast("SeenServer", system.redis)


def client_of(system: System) -> redis.Redis:
    """A client of the test's own, which may do anything."""
    return connect(system.url)


def refused(system: System) -> list[str]:
    """What was refused to anybody, but for the name of their library, which clients tell where they may."""
    told = [(one["username"], one["object"]) for one in cast("list[dict[str, Any]]", client_of(system).acl_log())]
    return [f"{user}: {what}" for user, what in told if not what.startswith("client")]


def produce(system: System) -> None:
    """Jobs as they are run, tried, left, fetched and cancelled; with rows that fail, and a worker that is long gone."""
    np.save(system.folder / "rows.npy", ROWS)
    with Client(system.redis.url_as(PRODUCER)) as client:
        client_of(system).sadd(keys.WORKERS, "gone@host:1")
        for store in ("redis", None):
            np.testing.assert_array_equal(client.predict("held", ROWS, chunk_rows=2, store=store), ROWS * 2)
        large = np.zeros((30_000, 4), np.float32)
        np.testing.assert_array_equal(client.predict("held", large, store="redis", chunk_rows=15_000), large)
        assert len(client.predict("picky", ROWS, on_error="skip")) < len(ROWS)
        left = client.attach(client.submit(["held", "picky"], ROWS, detach=True, chunk_rows=7))
        held = cast("dict[str, Any]", left.result())["held"]
        np.testing.assert_array_equal(held, ROWS * 2)
        left.cancel()
        job = client.submit("slower", ROWS, chunk_rows=1)
        for words in (["cancel", job.id], ["predict", "held", "rows.npy", "-o", "out.npy", "--dry-run"]):
            ended = system.celeriac(*words)
            assert ended.returncode == 0, ended.stderr
        assert job.wait(60)


def outlive(system: System, caplog: pytest.LogCaptureFixture) -> None:
    """A job that Redis refuses for a while, and two whose worker is gone; a message that is none."""
    with Client(system.redis.url_as(PRODUCER)) as client:
        server = client_of(system)
        with holding(system.folder, float(HELD)) as let_go:
            job = client.submit("held", ROWS, chunk_rows=2)
            wait_until(lambda: held_child(system.folder), "a child is held")
            server.replicaof("127.0.0.1", 1)
            let_go()
            wait_until(lambda: "takes no writes" in caplog.text, "the job says that it waits")
            server.replicaof("NO", "ONE")
            np.testing.assert_array_equal(job.result(), ROWS * 2)
        server.lpush(keys.queue(system.slots()[0].queue), "no message")
        wait_until(lambda: server.exists(keys.REFUSED), "it is put aside")
        with holding(system.folder, float(HELD)) as let_go:
            left = client.submit("held", ROWS[30:], detach=True, chunk_rows=2)
            wait_until(lambda: held_child(system.folder), "a child is held")
            job = client.submit("held", ROWS[:30], chunk_rows=2)
            (slot,) = system.slots()
            system.workers[-1].stop()
            server.delete(keys.worker(slot.worker))
            server.srem(keys.WORKERS, slot.worker)
        system.start_ready_worker(system.folder / "models.toml", 1)
        np.testing.assert_array_equal(job.result(), ROWS[:30] * 2)
        np.testing.assert_array_equal(client.attach(left).result(), ROWS[30:] * 2)


def watch(system: System) -> None:
    """All commands that only look."""
    url = {"CELERIAC_BROKER_URL": system.redis.url_as(WATCHER)}
    listed = system.celeriac("jobs", **url)
    assert listed.returncode == 0, listed.stderr
    job = listed.stdout.splitlines()[1].split()[0]
    for words in (["status", job], ["failures", job], ["report", job], ["models"], ["watch", job]):
        ended = system.celeriac(*words, **url)
        assert "refuses" not in ended.stdout + ended.stderr, ended
        assert "Traceback" not in ended.stderr, ended
    assert refused(system) == []
    # The doctor tries what it may not do.
    assert "has those of: watcher" in system.celeriac("doctor", **url).stdout
    client_of(system).acl_log_reset()


def operate(system: System) -> None:
    """Celery's own commands, and Flower where it is what is seen, as it has no users at a Unix socket.

    Others have asked before, and have gone; as has a worker with a message.
    """
    server = client_of(system)
    server.zadd(f"{KEY_PREFIX}_kombu.binding_deadlines", {"reply.gone": 1})
    server.script_flush()
    for words in (("inspect", "ping"), ("inspect", "models"), ("control", "drain"), ("control", "resume"), ("status",)):
        ended = system.celery(*words)
        assert ended.returncode == 0, ended.stderr
    if seen_server(system).seen is not OPERATOR:
        return
    system.workers[-1].stop()
    message = {"body": "", "properties": {"delivery_tag": "t", "delivery_info": {}}, "headers": {}}
    server.hset(f"{KEY_PREFIX}unacked", "t", json.dumps([message, "", "celeriac.gone"]))
    server.zadd(f"{KEY_PREFIX}unacked_index", {"t": 1})
    system.celery("inspect", "ping")
    assert server.llen(f"{KEY_PREFIX}celeriac.gone") == 1
    system.start_ready_worker(system.folder / "models.toml", 1)
    port = free_port()
    with (system.folder / "flower.log").open("wb") as log:
        flower = subprocess.Popen(
            [str(BIN / "celery"), "-A", "tasks", "flower", f"--port={port}", "--address=127.0.0.1"],
            env=system.environ(CELERIAC_BROKER_URL=system.redis.url_as(OPERATOR), FLOWER_UNAUTHENTICATED_API="true"),
            cwd=system.folder,
            stdout=log,
            stderr=log,
        )
    try:

        def ask(path: str) -> bytes:
            try:
                with urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
                    return bytes(answer.read())
            except OSError:
                assert flower.poll() is None, (system.folder / "flower.log").read_text()
                return b""

        wait_until(lambda: b"celeriac." in ask("/api/workers?refresh=true"), "Flower knows the worker's queue")
        wait_until(lambda: b"celeriac." in ask("/api/queues/length"), "Flower knows the queue's length")
    finally:
        flower.terminate()
        flower.wait(30)


@pytest.mark.parametrize("system", ROLES, indirect=True, ids=lambda role: role.name)
def test_all_works_with_least_rights_and_each_is_used(system: System, caplog: pytest.LogCaptureFixture) -> None:
    role = seen_server(system).seen
    with seen_server(system).seeing() as (used, channels):
        system.start_ready_worker(system.folder / "models.toml", 1)
        produce(system)
        if role in (PRODUCER, WORKER):
            outlive(system, caplog)
        if role in (OPERATOR, WORKER):
            operate(system)
        if role is WATCHER:
            watch(system)
        system.workers[-1].process.terminate()
        system.workers[-1].process.wait(60)
    assert refused(system) == []
    # Redis shows it also where it was refused, as to the doctor of a watcher.
    assert used - role.commands <= {"exec"}
    assert role.commands - used <= RARE[role.name]
    patterns = [rule[1:] for rule in role.rules(1) if rule.startswith("&")]
    assert [one for one in patterns if not fnmatch.filter(channels, one)] == []
