"""Users of Redis that may do what they need and nothing else: all works with them, and each right is used."""

from __future__ import annotations

import fnmatch
import re
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
from tasks.transport.rights import missing_rules
from tests.acceptance.commands import Celeriac
from tests.held import held_child, holding, write_held_models
from tests.manifests import write_manifest
from tests.ports import free_port
from tests.systems import BIN, PASSWORD, RedisServer, System
from tests.waiting import wait_for_exit, wait_for_job, wait_until
from worker_config.broker import KEY_PREFIX
from worker_config.errors import BrokerRefusedError, ExitCode

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
    # An error between WATCH and EXEC; an executor that differs in a job that was left; requests for two models that
    # wait; one that comes while its child waits for no chunk. The last two are used, but MONITOR does not show them.
    "worker": {"unwatch", "rename", "lrem", "lindex", "client|id", "client|unblock"},
    # A request whose time is up; a connection that has rested for a while.
    "producer": {"lrem", "ping"},
    "watcher": set[str](),
    # The end of a command that listens to events; messages of a worker that is gone, which any consumer gives back.
    "operator": {"punsubscribe", "hdel", "hget", "lpush", "smembers", "unwatch", "watch"},
}


@dataclass
class SeenServer(RedisServer):
    """A server with a user for each role; what comes in by its port, as one of them does, is told apart."""

    seen: Role = WORKER
    # Not the first one: channels have its number.
    database: int = 1
    port: int = field(default_factory=free_port)

    def __post_init__(self) -> None:
        self.options, self.least_rights, self.secured = ("--port", str(self.port)), True, False

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
                    words = one["command"].lower().split()
                    if caller == "tcp" and (words[1:2] != [keys.PROBE] or words[0] == "persist"):  # else it is a try
                        channels.update(words[1:] if words[0] in ("publish", "psubscribe", "subscribe") else ())
                        name = "|".join(words[: 1 + (words[0] in ("client", "pubsub", "script"))])
                        used.update({name} - {"client|setinfo"})  # the name of their library

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
    return system.admin()


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
        np.testing.assert_array_equal(client.predict("held", ROWS[:2]), ROWS[:2] * 2)
        left = client.attach(client.submit(["held", "picky"], ROWS, detach=True, chunk_rows=7))
        held = cast("dict[str, Any]", left.result())["held"]
        np.testing.assert_array_equal(held, ROWS * 2)
        left.cancel()
        with holding(system.folder, float(HELD)):
            job = client.submit("held", ROWS, chunk_rows=1)
            succeeds(system, "cancel", job.id)
            wait_for_job(job)
        succeeds(system, "predict", "held", "rows.npy", "-o", "out.npy", "--dry-run")


def succeeds(system: System, *words: str) -> None:
    ended = system.celeriac(*words)
    assert ended.returncode == 0, ended.stderr


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


def examine(system: System, role: Role) -> None:
    """The doctor tries what this role may not do as well."""
    assert system.redis.refused() == []
    examined = system.celeriac("doctor", CELERIAC_BROKER_URL=system.redis.url_as(role)).stdout
    assert re.search(rf"rights .* has those of: .*{role.name}", examined), examined
    client_of(system).acl_log_reset()


def operate(system: System) -> None:
    """Celery's own commands, and Flower where it is what is seen, as it has no users at a Unix socket."""
    client_of(system).script_flush()  # which others have loaded
    for words in (("inspect", "ping"), ("inspect", "models"), ("control", "drain"), ("control", "resume"), ("status",)):
        ended = system.celery(*words)
        assert ended.returncode == 0, ended.stderr
    if seen_server(system).seen is not OPERATOR:
        return
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
    overdue = f"{KEY_PREFIX}_kombu.binding_deadlines", {"reply.gone": 1}
    with seen_server(system).seeing() as (used, channels), client_of(system) as server:
        server.zadd(*overdue)
        server.zadd(keys.UNACKED_INDEX, {"gone": 1})  # a message that is to be given back
        system.start_ready_worker(system.folder / "models.toml", 1)
        produce(system)
        if role in (PRODUCER, WORKER):
            outlive(system, caplog)
        if role in (OPERATOR, WORKER):
            server.zadd(*overdue)
            operate(system)
        if role is WORKER:
            examine(system, role)
        if role is WATCHER:
            watch(system)
            examine(system, role)
        wait_until(lambda: server.zscore(keys.UNACKED_INDEX, "gone") is None, "it was looked for")
        system.workers[-1].process.terminate()
        wait_for_exit(system.workers[-1].process)
    assert system.redis.refused() == []
    # Redis shows it also where it was refused, as to the doctor of a watcher.
    assert used - role.commands <= {"exec"}
    assert role.commands - used <= RARE[role.name]
    patterns = [rule[1:] for rule in role.rules(1) if rule.startswith("&")]
    assert [one for one in patterns if not fnmatch.filter(channels, one)] == []


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("s"), least_rights=True).start()
    yield server
    server.stop()


@contextmanager
def without(server: RedisServer, role: Role, *rules: str) -> Iterator[None]:
    """The role's user has other rules besides."""
    with server.admin() as admin:
        admin.execute_command("ACL", "SETUSER", role.name, *rules)
        try:
            yield
        finally:
            admin.execute_command("ACL", "SETUSER", role.name, *server.rules_of(role))


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_each_right_that_is_missing_is_found_and_nothing_is_done_for_it(server: RedisServer, role: Role) -> None:
    with server.admin() as admin, connect(server.url_as(role)) as client:
        admin.set(keys.PROBE, "1")
        assert missing_rules(client, role, 0) == []
        for name in sorted(role.commands - {"hello", "multi"}):
            with without(server, role, f"-{name}" if "|" not in name else f"-{name.partition('|')[0]}"):
                # A subcommand can be given, but not taken away alone by each version.
                expected = [one for one in sorted(role.commands) if one.partition("|")[0] == name.partition("|")[0]]
                assert missing_rules(client, role, 0) == [f"+{one}" for one in expected]
        if "multi" in role.commands:
            with without(server, role, "-multi"):
                missing = missing_rules(client, role, 0)
                assert {"+multi", "+set"} <= set(missing)
                assert set(missing) <= {f"+{name}" for name in role.commands}
        with without(server, role, "resetkeys"):
            assert missing_rules(client, role, 0) == ["~celeriac:*"]
        with without(server, role, "resetchannels"):
            assert set(missing_rules(client, role, 0)) == {one for one in role.rules(0) if one.startswith("&")}
        assert admin.keys() == [keys.PROBE.encode()]
        assert admin.get(keys.PROBE) == b"1"
        admin.delete(keys.PROBE)


def test_who_lacks_a_right_is_told_in_one_line_how_it_is_given(server: RedisServer, celeriac: Celeriac) -> None:
    system = System(server, server.folder)
    manifest = write_manifest(server.folder, write_held_models(server.folder))
    with without(server, WORKER, "-brpop", "-hlen"):
        worker = system.start_worker(manifest, 1)
        try:
            assert wait_for_exit(worker.process) == ExitCode.BROKER
        finally:
            worker.stop()
        check_line(worker.output(), "rights of workers.* ACL SETUSER worker \\+brpop \\+hlen$")
    with without(server, OPERATOR, "resetchannels"):
        asked = system.celery("inspect", "ping")
        assert asked.returncode == ExitCode.BROKER
        check_line(asked.stderr, "ACL SETUSER operator &celeriac:/0.celery.pidbox &celeriac:/0.celeryev/\\*$")
    with without(server, PRODUCER, "-lpush"):
        with pytest.raises(BrokerRefusedError, match=r"user 'producer' rights of producers; .* \+lpush$"):
            Client(server.url_as(PRODUCER))
        examined = celeriac.run("doctor", "--broker", server.url_as(PRODUCER))
        assert examined.code == ExitCode.BROKER
        assert "error    rights       user 'producer' lacks those of producers: +lpush;" in examined.stdout
    with without(server, WATCHER, "-zrange", "-smembers"):
        listed = celeriac.run("jobs", "--broker", server.url_as(WATCHER))
        assert listed.code == ExitCode.BROKER
        check_line(listed.stderr, "refuses this user a right .*'zrange'.*: ZRANGE celeriac:jobs\\); `celeriac doctor")
        told = celeriac.run("doctor", "--acl", "--json", "--broker", server.url_as(WATCHER))
        assert told.code == ExitCode.OK
        assert told.json["user"] == "watcher"
        assert told.json["roles"]["watcher"]["missing"] == ["+smembers", "+zrange"]
    with without(server, PRODUCER, "resetkeys", "-info"):
        shown = celeriac.run("doctor", "--acl", "--broker", server.url_as(PRODUCER))
        assert "# user 'producer' lacks ~celeriac:* +info" in shown.stdout.splitlines()
    line = f"ACL SETUSER watcher reset on >PASSWORD {' '.join(WATCHER.rules(0))}"
    assert line in celeriac.run("doctor", "--acl").stdout.splitlines()


def check_line(text: str, pattern: str) -> None:
    """One line says it, and nothing else looks like an error of ours."""
    assert "Traceback" not in text, text
    assert len([line for line in text.splitlines() if re.search(pattern, line)]) == 1, text
