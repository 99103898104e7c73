"""Real Redis servers and real workers for tests; each ends with the test that started it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, cast

import psutil
import redis

from producer.embedded.redis_server import find_redis_server
from producer.job.dispatcher import OVERDUE
from producer.records import timeline_store
from producer.records.ledger import Ledger
from tasks.protocol import keys
from tasks.protocol.records import SlotRecord
from tasks.protocol.rights import OPERATOR, PRODUCER, ROLES, WORKER, Role
from tasks.protocol.seal import Sealer
from tasks.transport.connection import connect
from tasks.transport.worker_registry import read_slots
from tests import warm
from tests.ports import free_port
from tests.tls import TlsProxy, certificates
from tests.waiting import descendants_of, wait_until
from tests.warm import Forked
from worker_config.broker import KEY_PREFIX, QUEUE
from worker_config.celery_app import make_app
from worker_config.settings import Settings

BIN = Path(sys.executable).parent
# `make secured`: every worker, producer and command logs in as a user that has the least rights, by TLS with a
# certificate of its own, and signs.
SECURED = bool(os.environ.get("SECURED"))
PASSWORD = "of-all-users"
SIGNING_KEYS = ("the-key-by-which-all-processes-of-the-tests-sign",) if SECURED else ()
SIGNING = {"CELERIAC_SIGNING_KEY": SIGNING_KEYS[0]} if SECURED else {}
os.environ |= SIGNING
REPOSITORY = warm.REPOSITORY


@dataclass
class RedisServer:
    """A private server on a Unix socket; `prefix` is what its command begins with, to run it elsewhere.

    `address` is the URL that others are given, where it is not that of the socket; `binary` is the server's program,
    where it is not the one that the embedded system would take.
    With `least_rights` it has a user for each role of `tasks.protocol.rights`; `secured` it has them too, and all but
    the test itself reach it by TLS.
    """

    folder: Path
    options: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None
    prefix: tuple[str, ...] = ()
    address: str = ""
    binary: str = ""
    least_rights: bool = False
    secured: bool = SECURED
    database: int = 0
    tls_port: int = field(default_factory=free_port)
    _proxy: TlsProxy | None = None

    @property
    def _has_users(self) -> bool:
        return self.least_rights or self.secured

    @property
    def socket(self) -> Path:
        return self.folder / "redis.sock"

    @property
    def url(self) -> str:
        """What a producer is given."""
        return self.url_as(PRODUCER)

    def url_as(self, role: Role) -> str:
        """The URL by which a process of this role logs in; without users of their own all have the same."""
        if self.address:
            return self.address
        login = f"{role.name}:{PASSWORD}@" if self._has_users else ""
        if self.secured:
            return f"rediss://{login}127.0.0.1:{self.tls_port}/{self.database}{certificates().options()}"
        return f"unix://{login}{self.socket}" + (f"?db={self.database}" if self.database else "")

    def admin(self, **options: Any) -> redis.Redis:
        """A client of the test's own, which may do anything."""
        return connect(self.address or f"unix://{self.socket}?db={self.database}", **options)

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self) -> RedisServer:
        command = [*self.prefix, self.binary or find_redis_server(), "--port", "0", "--unixsocket", str(self.socket)]
        command += ["--save", "", "--appendonly", "no", "--dir", str(self.folder), *self.options]
        if self._has_users:  # which it has again after a restart, before anybody logs in
            lines = [f"user {role.name} {' '.join(self.rules_of(role))}\n" for role in ROLES]
            (self.folder / "users.acl").write_text("".join(["user default on nopass ~* &* +@all\n", *lines]))
            command += ["--aclfile", str(self.folder / "users.acl")]
        with (self.folder / "redis.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_until(self._answers, "Redis answers")
        if self.secured:
            context = certificates().server_context("127.0.0.1")
            self._proxy = TlsProxy(self.socket, context, self.tls_port).__enter__()
        return self

    def rules_of(self, role: Role) -> list[str]:
        """All of a role's user."""
        return ["reset", "on", f">{PASSWORD}", *role.rules(self.database)]

    def refused(self) -> list[str]:
        """What was refused to anybody, but for the name of their library, which clients tell where they may."""
        with self.admin() as client:
            told = [(one["username"], one["object"]) for one in cast("list[dict[str, str]]", client.acl_log())]
        return [f"{user}: {what}" for user, what in told if not what.startswith("client")]

    def stop(self) -> None:
        if self._proxy is not None:
            self._proxy.__exit__()
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def forget(self) -> None:
        """Lose what is kept of a server that is down."""
        for path in [*self.folder.glob("appendonly.aof*"), *self.folder.glob("dump.rdb")]:
            path.unlink()
        shutil.rmtree(self.folder / "appendonlydir", ignore_errors=True)

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "redis.log").read_text()
        try:
            # By hand: what we do not work with is a server as well.
            with redis.Redis(unix_socket_path=str(self.socket)) as client:
                return bool(client.ping())
        except redis.AuthenticationError:
            return True
        except redis.ConnectionError:
            return False


@dataclass
class Worker:
    """`celery -A tasks worker` as a process in a session of its own."""

    process: subprocess.Popen[bytes] | Forked
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def last_words(self) -> str:
        """The end of its output, and what its processes are at, for who asks why a test has failed."""
        words = [self.output()[-8_000:]]
        with suppress(psutil.NoSuchProcess):
            main = psutil.Process(self.pid)
            for one in (main, *main.children(recursive=True)):
                dump = [str(Path(sys.executable).with_name("py-spy")), "dump", "--pid", str(one.pid)]
                stacks = subprocess.run(dump, capture_output=True, text=True, check=False)
                words.append(f"{one.status()}, {sum(one.cpu_times()[:2]):.1f} s: {stacks.stdout or stacks.stderr}")
        return "\n".join(words)

    def stop(self) -> None:
        """Kill it with all its children."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@dataclass
class System:
    """One Redis, and workers as a test wants them."""

    redis: RedisServer
    folder: Path
    workers: list[Worker] = field(default_factory=list)

    @property
    def url(self) -> str:
        return self.redis.url

    def environ(self, manifest: Path | None = None, **more: str) -> dict[str, str]:
        """The environment for a worker or a Celery command."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("CELERIAC_")}
        models = {"CELERIAC_MODELS": str(manifest)} if manifest else {}
        return {**clean, **SIGNING, "CELERIAC_BROKER_URL": self.redis.url_as(WORKER), **models, **more}

    def settings(self, **more: Any) -> Settings:
        """Settings for a producer in this process."""
        return Settings(broker_url=self.url, signing_key=SIGNING_KEYS, **more)

    def admin(self, **options: Any) -> redis.Redis:
        """A client of the test's own, which may do anything."""
        return self.redis.admin(**options)

    def slots(self) -> list[SlotRecord]:
        with self.admin() as client:
            return read_slots(client)

    def unfinished(self) -> set[str]:
        """The ids of tasks that a worker has received and not ended, by what the workers say."""
        log = "".join(worker.output() for worker in self.workers)
        received = re.findall(r"Task \S+\[([\w-]+)\] received", log)
        return set(received) - set(re.findall(r"Task \S+\[([\w-]+)\] (?!received)", log))

    def start_worker(
        self,
        manifest: Path,
        children: int = 2,
        *options: str,
        environ: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
        fresh: bool = False,
    ) -> Worker:
        """Start a worker without waiting for it; `prefix` is what its command begins with, to run it elsewhere.

        It comes out of a process that has imported TensorFlow already (`tests.warm`), unless it must be `fresh`.
        """
        log = self.folder / f"worker{len(self.workers)}.log"
        command = [str(BIN / "celery"), "-A", "tasks", "worker", "-c", str(children), "-l", "info", *options]
        environ = environ or {}
        fresh = fresh or bool(prefix) or not warm.suits(environ)
        with log.open("wb") as output:
            process: subprocess.Popen[bytes] | Forked
            if fresh:
                process = subprocess.Popen(
                    [*prefix, *command],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=self.environ(manifest, **environ),
                    cwd=self.folder,
                    start_new_session=True,
                )
            else:
                process = warm.start("worker", command, self.folder, self.environ(manifest, **environ), output)
        worker = Worker(process, log)
        self.workers.append(worker)
        return worker

    def start_ready_worker(
        self,
        manifest: Path,
        children: int = 2,
        *options: str,
        environ: Mapping[str, str] | None = None,
        start_seconds: float = 90.0,
        fresh: bool = False,
    ) -> Worker:
        """Start a worker and wait until its children hold their models, which takes seconds for each new model."""
        before = len(self.slots())
        worker = self.start_worker(manifest, children, *options, environ=environ, fresh=fresh)

        def ready() -> bool:
            assert worker.process.poll() is None, worker.output()
            return len(self.slots()) >= before + children

        wait_until(ready, "the worker's children are ready", start_seconds)
        return worker

    def resent(self, job_id: str) -> list[str]:
        """Why chunks of a job that has ended were sent again, but for those that a busy machine made late."""
        with self.admin() as client:
            found = timeline_store.read(client, job_id)
        assert found
        return [one.text for one in found[0].events if one.kind == "sent again" and one.text != OVERDUE]

    def assert_run_once(self, job_id: str, ledger: Ledger) -> None:
        """Each chunk of a job that has ended was run once, but for those that a busy machine made late."""
        assert not self.resent(job_id)
        assert ledger.duplicates <= ledger.chunks_sent_again, ledger

    def wait_until_nothing_is_left(self, job_id: str) -> None:
        """Of a job that has ended Redis has its record and its timeline; what a late worker put there is soon gone."""
        own = {keys.job(job_id).encode(), keys.timeline(job_id).encode()}
        with self.admin() as client:
            wait_until(lambda: set(client.scan_iter(f"{keys.job(job_id)}*")) == own, "nothing else is left of the job")

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """The first worker and its children are stopped, and no chunk is taken; its slots are known for a while."""
        worker = self.workers[0]
        processes = [worker.pid, *descendants_of(worker.pid)]
        still = (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE)  # one that has ended waits for the main process
        os.killpg(worker.pid, signal.SIGSTOP)
        try:
            wait_until(
                lambda: all(psutil.Process(pid).status() in still for pid in processes),
                "the worker stands still",
            )
            yield
        finally:
            os.killpg(worker.pid, signal.SIGCONT)

    def celery(self, *words: str, timeout_seconds: float = 120, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run a Celery command, such as `inspect ping`."""
        environ = {"CELERIAC_BROKER_URL": self.redis.url_as(OPERATOR), **environ}
        return self._run([str(BIN / "celery"), "-A", "tasks", *words], self.environ(**environ), timeout_seconds)

    def celeriac(self, *words: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run `celeriac` in the system's folder, with this broker."""
        environ = {"CELERIAC_BROKER_URL": self.redis.url_as(PRODUCER), **environ}
        return self._run([str(BIN / "celeriac"), *map(str, words)], {**self.environ(), **environ}, 120)

    def numbers_of(self, program: str) -> list[int]:
        """What a program of Python prints, a number in each line, in a fresh process that is a producer here."""
        spool = self.folder / "spool"
        environ = {"CELERIAC_SPOOL": str(spool)} if spool.exists() else {}
        environ |= {"CELERIAC_BROKER_URL": self.url, "PYTHONPATH": str(REPOSITORY)}
        command = [sys.executable, "-c", program]
        done = subprocess.run(
            command, env=self.environ(**environ), cwd=self.folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return list(map(int, done.stdout.split()))

    def _run(
        self, command: Sequence[str], environ: Mapping[str, str], timeout_seconds: float
    ) -> subprocess.CompletedProcess[str]:
        with TemporaryFile() as stdout, TemporaryFile() as stderr:
            process = warm.start("command", command, self.folder, environ, stdout, stderr)
            try:
                code = process.wait(timeout_seconds)
            finally:
                process.kill()
            told = [output.seek(0) or output.read().decode() for output in (stdout, stderr)]
        return subprocess.CompletedProcess(command, code, *told)

    def ask(self, node: str, command: str, **arguments: int) -> dict[str, Any]:
        """What a worker answers to a command as of `celery inspect` and `control`, without a process to ask it."""
        # A connection of its own: Celery's pool may hold one to a Redis that has gone.
        app = make_app(replace(self.settings(), broker_url=self.redis.url_as(OPERATOR)))
        object.__setattr__(app, "sealer", Sealer(SIGNING_KEYS))
        app.control_cls = "tasks.worker.control_guard:SignedControl"
        with app, app.connection_for_write() as connection:
            answers = app.control.broadcast(
                command, arguments, destination=[node], reply=True, timeout=30, limit=1, connection=connection
            )
        assert answers, f"{node} does not answer"
        return cast("dict[str, Any]", answers[0][node])

    def stop(self) -> None:
        for worker in self.workers:
            worker.stop()
        self.redis.stop()


@contextmanager
def serving(
    folder: Path,
    manifest: Path | None = None,
    children: int = 2,
    environ: Mapping[str, str] | None = None,
    start_seconds: float = 90.0,
) -> Iterator[System]:
    """A Redis, and a worker with these models if there are any; all ends with the block."""
    system = System(RedisServer(folder).start(), folder)
    try:
        if manifest:
            system.start_ready_worker(manifest, children, environ=environ, start_seconds=start_seconds)
        yield system
        assert not SECURED or system.redis.refused() == []
    finally:
        system.stop()


def shared_folders(folder: Path) -> dict[str, str]:
    """Make `spool`, which all share, and `data`, which workers may read; what tells a worker of them."""
    for name in ("spool", "data"):
        (folder / name).mkdir()
    return {"CELERIAC_SPOOL": str(folder / "spool"), "CELERIAC_DATA_ROOTS": str(folder / "data")}


def queues(server: redis.Redis) -> list[bytes]:
    """The keys of all queues in which a message waits."""
    return sorted(server.scan_iter(f"{KEY_PREFIX}{QUEUE}.*"))


def queued_messages(server: redis.Redis, job_id: str, sent: int) -> list[bytes]:
    """The raw Celery messages of a job; a stopped worker may hold one, which it had asked for before."""

    def found() -> list[bytes]:
        messages = [message for key in queues(server) for message in cast("list[bytes]", server.lrange(key, 0, -1))]
        return [message for message in messages if job_id.encode() in message]

    return wait_until(lambda: len(messages := found()) >= sent - 1 and messages, "the chunks are in the queue")
