"""A primary, its replica and three Sentinels on this machine, with passwords, each behind what speaks TLS.

worker, producer --TLS--> proxy --> Sentinel     "the primary is at the port of that proxy"
                 --TLS--> proxy --> primary
                          proxy --> replica, the primary after a failover
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import redis

from producer.embedded.redis_server import find_redis_server
from tests.planted import PASSWORD, QUOTED
from tests.ports import free_port
from tests.systems import RedisServer
from tests.tls import Certificates, TlsProxy
from tests.waiting import wait_until

NAME = "main"
SENTINELS = 3
FAILOVERS = ("killed", "graceful", "stale", "read-only")
SENTINEL_PASSWORD = f"of+{PASSWORD}"


@dataclass
class Guarded:
    """Two servers, of which Sentinels make one the primary.

    Attributes:
        servers: by the port at which others see them.
        sentinels: processes, in the order of the URL.
    """

    folder: Path
    certificates: Certificates
    servers: dict[int, RedisServer] = field(default_factory=dict)
    sentinels: list[subprocess.Popen[bytes]] = field(default_factory=list)
    sentinel_proxies: list[TlsProxy] = field(default_factory=list)
    _ends: ExitStack = field(default_factory=ExitStack)

    def start(self) -> Guarded:
        for name in ("one", "two"):
            self._start_server(name)
        for number in range(SENTINELS):
            self._start_sentinel(number)
        wait_until(self._is_complete, "all Sentinels know the replica and one another")
        return self

    def stop(self) -> None:
        for sentinel in self.sentinels:
            sentinel.kill()
            sentinel.wait()
        for server in self.servers.values():
            server.stop()
        self._ends.close()

    def url(self, *, with_tls: bool) -> str:
        hosts = ",".join(f"127.0.0.1:{proxy.port}" for proxy in self.sentinel_proxies)
        login = "sentinel_password=of%2B" + QUOTED
        options = f"{self.certificates.options()}&{login}" if with_tls else f"?{login}"
        return f"sentinel{'s' * with_tls}://:{QUOTED}@{hosts}/{NAME}/1{options}"

    def primary(self) -> int:
        """The port of the primary, as the last Sentinel knows it."""
        return int(self._states()[-1]["port"])

    @contextmanager
    def failover(self, kind: str) -> Iterator[None]:
        """Another server is the primary in the block, and the old one is mended after it; FAILOVERS has the kinds."""
        port = self.primary()
        old, (other,) = self.servers[port], (server for name, server in self.servers.items() if name != port)
        if kind == "killed":  # at once, and without a word
            old.stop()
        elif kind == "graceful":
            self._ask(-1).sentinel_failover(NAME)
        elif kind == "stale":
            os.kill(old.pid, signal.SIGSTOP)
        else:  # by hand, and everybody stays connected to a replica
            with administrator(other) as client:
                client.replicaof("NO", "ONE")
            with administrator(old) as client:
                client.replicaof("127.0.0.1", next(name for name in self.servers if name != port))
        try:
            wait_until(lambda: self.primary() != port, "the Sentinels have made the replica the primary", 180)
            if kind == "stale":
                # For some seconds it is a primary, and has what it had.
                os.kill(old.pid, signal.SIGCONT)
            yield
        finally:
            if kind == "killed":
                old.start()
            elif kind == "stale":
                os.kill(old.pid, signal.SIGCONT)

    def wait_until_whole(self) -> None:
        """Until all Sentinels name the same primary, and its replica has what it has."""
        wait_until(self._is_whole, "the Sentinels agree, and the replica follows", 180)

    def wait_until_agreed(self) -> None:
        """Until all Sentinels name the same primary."""
        wait_until(lambda: len({state["port"] for state in self._states()}) == 1, "the Sentinels agree")

    def _is_whole(self) -> bool:
        states = self._states()
        if len({state["port"] for state in states}) != 1 or any(state["flags"] != "master" for state in states):
            return False
        with administrator(self.servers[self.primary()]) as client:
            replication = client.info("replication")
        return replication["role"] == "master" and replication.get("slave0", {}).get("state") == "online"

    def _start_server(self, name: str) -> None:
        port = free_port()
        proxy = self._ends.enter_context(TlsProxy(port, self.certificates.server_context("127.0.0.1")))
        options = ["--port", str(port), "--requirepass", PASSWORD, "--masterauth", PASSWORD]
        options += ["--replica-announce-ip", "127.0.0.1", "--replica-announce-port", str(proxy.port)]
        options += ["--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0"]
        for primary in self.servers:
            options += ["--replicaof", "127.0.0.1", str(primary)]
        (self.folder / name).mkdir()
        self.servers[proxy.port] = RedisServer(self.folder / name, tuple(options), secured=False).start()

    def _start_sentinel(self, number: int) -> None:
        port, primary = free_port(), next(iter(self.servers))
        proxy = self._ends.enter_context(TlsProxy(port, self.certificates.server_context("127.0.0.1")))
        file = self.folder / f"sentinel{number}.conf"
        file.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {self.folder}\nrequirepass {SENTINEL_PASSWORD}\n"
            f"sentinel monitor {NAME} 127.0.0.1 {primary} 2\nsentinel auth-pass {NAME} {PASSWORD}\n"
            f"sentinel down-after-milliseconds {NAME} 2000\nsentinel failover-timeout {NAME} 5000\n"
        )
        with (self.folder / f"sentinel{number}.log").open("wb") as log:
            command = [find_redis_server(), str(file), "--sentinel"]
            self.sentinels.append(subprocess.Popen(command, stdout=log, stderr=log))
        self.sentinel_proxies.append(proxy)

    def _is_complete(self) -> bool:
        states = self._states()
        others = [int(state["num-other-sentinels"]) for state in states]
        return others == [SENTINELS - 1] * SENTINELS and all(int(state["num-slaves"]) == 1 for state in states)

    def _states(self) -> list[dict[str, Any]]:
        """What each Sentinel that lives says of the primary."""
        states = []
        for number, process in enumerate(self.sentinels):
            if process.poll() is None:
                try:
                    with self._ask(number) as client:
                        states.append(client.sentinel_master(NAME))
                except redis.ConnectionError:
                    return [{"port": 0, "num-other-sentinels": 0, "num-slaves": 0, "flags": "?"}]
        return states

    def _ask(self, sentinel: int) -> redis.Redis:
        port = cast(int, self.sentinel_proxies[sentinel].server)
        return redis.Redis(port=port, password=SENTINEL_PASSWORD, protocol=2, decode_responses=True)


def administrator(server: RedisServer) -> redis.Redis:
    """A client of one of the servers, whatever the Sentinels say of it."""
    return redis.Redis(unix_socket_path=str(server.socket), password=PASSWORD, decode_responses=True)
