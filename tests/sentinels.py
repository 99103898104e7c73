"""A primary, its replica and three Sentinels on this machine, with passwords, each behind what speaks TLS.

worker, producer --TLS--> proxy --> Sentinel     "the primary is at the port of that proxy"
                 --TLS--> proxy --> primary
                          proxy --> replica, the primary after a failover
"""

from __future__ import annotations

import socket
import subprocess
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import redis

from producer.embedded.redis_server import find_redis_server
from tests.planted import PASSWORD, QUOTED
from tests.systems import RedisServer
from tests.tls import Certificates, TlsProxy
from tests.waiting import wait_until

NAME = "main"
SENTINELS = 3
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

    def kill_primary(self) -> int:
        """At once, and without a word; returns its port."""
        port = self.primary()
        self.servers[port].stop()
        return port

    def wait_for_another(self, port: int) -> None:
        wait_until(lambda: self.primary() != port, "the Sentinels have made the replica the primary")

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
            f"sentinel down-after-milliseconds {NAME} 2000\nsentinel failover-timeout {NAME} 10000\n"
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
        for process, proxy in zip(self.sentinels, self.sentinel_proxies, strict=True):
            if process.poll() is None:
                try:
                    with redis.Redis(port=cast(int, proxy.server), password=SENTINEL_PASSWORD, protocol=2) as client:
                        states.append(client.sentinel_master(NAME))
                except redis.ConnectionError:
                    return [{"port": 0, "num-other-sentinels": 0, "num-slaves": 0}]
        return states


def free_port() -> int:
    """Of this machine, a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])
