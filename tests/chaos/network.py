"""Several hosts on one machine: network namespaces, each with one cable to the host of Redis.

    w0 --veth-- redis --veth-- w1
                  |
               producer

It needs root and iproute2. Cables are made between namespaces, so the machine's own network never sees them.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress

from tests.waiting import is_alive, wait_until

WORKER_HOSTS = ("w0", "w1")
PRODUCER_HOST = "producer"
HOSTS = (*WORKER_HOSTS, PRODUCER_HOST)
PORT = 6379

_CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 1).close()"


class Network:
    """The host `redis`, and those of workers and the producer; all is taken down by `stop`, with what runs there.

    Attributes:
        hosts: all but that of Redis.
    """

    redis_options = ("--port", str(PORT), "--bind", "0.0.0.0", "--protected-mode", "no")  # noqa: S104

    def __init__(self, worker_hosts: Sequence[str] = WORKER_HOSTS) -> None:
        self.hosts = (*worker_hosts, PRODUCER_HOST)
        self._token = secrets.token_hex(2)
        self._names: list[str] = []

    def start(self) -> Network:
        """Make the hosts and their cables."""
        self._add("redis")
        for number, host in enumerate(self.hosts):
            self._add(host)
            here, there = self._name("redis"), self._name(host)
            run("ip", "link", "add", f"to-{host}", "netns", here, "type", "veth", "peer", "eth0", "netns", there)
            run("ip", "-n", here, "addr", "add", f"{self._address(number)}/30", "dev", f"to-{host}")
            run("ip", "-n", there, "addr", "add", f"{self._address(number, 2)}/30", "dev", "eth0")
            run("ip", "-n", here, "link", "set", f"to-{host}", "up")
            run("ip", "-n", there, "link", "set", "eth0", "up")
        return self

    def stop(self) -> None:
        """Kill what runs in the hosts, and take them down; their cables go with them."""
        for name in self._names:
            pids = [int(pid) for pid in run("ip", "netns", "pids", name).split()]
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            wait_until(lambda pids=pids: not any(map(is_alive, pids)), "what ran in the host is gone")
            run("ip", "netns", "delete", name)
        self._names.clear()

    def on(self, host: str) -> tuple[str, ...]:
        """What a command begins with that is to run on a host."""
        return ("ip", "netns", "exec", self._name(host))

    def url(self, host: str) -> str:
        """The Redis, as a host sees it."""
        return f"redis://{self._address(self.hosts.index(host))}:{PORT}/0"

    def cut(self, *hosts: str) -> None:
        """Take the cables of these hosts out at the other end: they hear nothing, and are told nothing."""
        for host in hosts:
            run("ip", "-n", self._name("redis"), "link", "set", f"to-{host}", "down")
        assert not [host for host in hosts if self.reaches_redis(host)]

    def mend(self, *hosts: str) -> None:
        """Put them back."""
        for host in hosts:
            run("ip", "-n", self._name("redis"), "link", "set", f"to-{host}", "up")
        wait_until(lambda: all(map(self.reaches_redis, hosts)), "the hosts reach Redis")

    def reaches_redis(self, host: str) -> bool:
        """Whether a connection to Redis comes about."""
        address = self._address(self.hosts.index(host))
        command = [*self.on(host), sys.executable, "-c", _CONNECT, address, str(PORT)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def disturb(self, *options: str) -> str:
        """Let netem treat what leaves any host; returns why that cannot be, if it cannot."""
        ends = [(self._name("redis"), f"to-{host}") for host in self.hosts]
        ends += [(self._name(host), "eth0") for host in self.hosts]
        for name, device in ends:
            command = ["tc", "-n", name, "qdisc", "add", "dev", device, "root", "netem", *options]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                return done.stderr.strip()
        return ""

    def _add(self, host: str) -> None:
        name = self._name(host)
        run("ip", "netns", "add", name)
        self._names.append(name)
        run("ip", "-n", name, "link", "set", "lo", "up")

    def _name(self, host: str) -> str:
        return f"celeriac-{self._token}-{host}"

    def _address(self, number: int, end: int = 1) -> str:
        return f"10.77.{number}.{end}"


def why_not() -> str:
    """Why this machine cannot have such a network; empty if it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "network namespaces need root on Linux"
    if not shutil.which("ip"):
        return "network namespaces need iproute2"
    name = f"celeriac-{secrets.token_hex(2)}"
    try:
        run("ip", "netns", "add", name)
        run("ip", "netns", "delete", name)
    except AssertionError as error:
        return f"no network namespace can be made here: {error}"
    return ""


def run(*command: str) -> str:
    """Run a command that must go well; returns what it says."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout
