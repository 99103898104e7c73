"""A compose file goes in, processes come out: its commands, environments, order and healthchecks, without Docker.

What a container has of its own is mapped: images to programs found here, volumes to folders, host names to loopback,
ports to free ones, a container's host name to Celery's node name.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from producer.embedded.redis_server import find_redis_server
from tests.ports import free_port
from tests.waiting import wait_until

BIN = Path(sys.executable).parent
ONE_SHOT_SECONDS = 180
COMMAND_SECONDS = 60


def read_compose(file: Path, environ: Mapping[str, str]) -> dict[str, Any]:
    """The file's content, with `${NAME:-default}`, `${NAME:?error}` and `$$` replaced as compose does.

    Raises:
        KeyError: a variable is missing that has no default.
    """

    def interpolated(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: interpolated(item) for key, item in value.items()}
        if isinstance(value, list):
            return [interpolated(item) for item in value]
        return re.sub(r"\$\$|\$\{(\w+):([-?])([^}]*)\}", replaced, value) if isinstance(value, str) else value

    def replaced(found: re.Match[str]) -> str:
        if found[0] == "$$":
            return "$"
        if found[2] == "?" and not environ.get(found[1]):
            raise KeyError(f"{found[1]}: {found[3]}")
        return environ.get(found[1]) or found[3]

    return dict(interpolated(yaml.safe_load(file.read_text())))


def words_of(command: str | list[str]) -> list[str]:
    """A service's command, in whichever form it is written."""
    return shlex.split(command) if isinstance(command, str) else command


def seconds(duration: str) -> float:
    """A duration as compose files have it."""
    assert duration.endswith("s")
    return float(duration[:-1])


@dataclass
class Container:
    """One process group, in the place of a container."""

    name: str
    environ: dict[str, str]
    process: subprocess.Popen[bytes]
    log: Path

    def output(self) -> str:
        return self.log.read_text(errors="replace")


class Stack:
    """The services of a compose file as local processes, each with a home of its own and a common temporary folder."""

    def __init__(self, file: Path, folder: Path, scale: Mapping[str, int], environ: Mapping[str, str]) -> None:
        services: dict[str, Any] = read_compose(file, environ)["services"]
        # Others run programs that are not here.
        self.services = {name: one for name, one in services.items() if re.match(r"celeriac$|redis:", one["image"])}
        self.containers: dict[str, list[Container]] = {}
        self.redis_port, self.flower_port = free_port(), free_port()
        self._folder = folder
        self._scale = scale
        self._write_programs()

    @property
    def path(self) -> str:
        """Where the services' programs are found."""
        return os.pathsep.join([f"{self._folder}/bin", str(BIN), os.environ["PATH"]])

    def up(self) -> None:
        """Start every service as `docker compose up` does."""
        for name in self.services:
            self._up(name)

    def down(self) -> None:
        """Kill every process, with its children."""
        for container in [one for replicas in self.containers.values() for one in replicas]:
            with suppress(ProcessLookupError):
                os.killpg(container.process.pid, signal.SIGKILL)
            container.process.wait()

    def home(self, hostname: str) -> Path:
        """Where a container stands: in a file system that takes no writes, if it is a real one."""
        return self._folder / "homes" / hostname

    def wait_until_ended(self, name: str) -> Container:
        """Wait for a one-shot service."""
        (container,) = self.containers[name]
        container.process.wait(ONE_SHOT_SECONDS)
        return container

    def run(self, name: str, *words: str) -> subprocess.CompletedProcess[str]:
        """As `docker compose exec`: run a command in the first container of a service."""
        return self._run(list(words), self.containers[name][0])

    def _up(self, name: str) -> None:
        if name in self.containers:
            return
        depends_on = self.services[name].get("depends_on", {})
        needed = {other: how for other, how in depends_on.items() if other in self.services}
        for other in needed:
            self._up(other)
        for other, how in needed.items():
            self._wait(other, how["condition"])
        self.containers[name] = [self._start(name, f"{name}-{n + 1}") for n in range(self._scale.get(name, 1))]

    def _start(self, name: str, hostname: str) -> Container:
        service = self.services[name]
        home, temporary = self.home(hostname), self._folder / "tmp"
        for folder in (home, temporary):
            folder.mkdir(parents=True, exist_ok=True)
        environ = {"PATH": self.path, "HOME": str(home), "TMPDIR": str(temporary), "HOSTNAME": hostname}
        environ |= {key: self._local(value) for key, value in service.get("environment", {}).items()}
        if name == "flower":
            environ |= {"FLOWER_ADDRESS": "127.0.0.1", "FLOWER_PORT": str(self.flower_port)}
        words = [self._local(word) for word in words_of(service["command"])]
        if "CELERIAC_METRICS_HOST" in environ:  # of each container its own; here all share the ports
            environ |= {"CELERIAC_METRICS_HOST": "127.0.0.1", "CELERIAC_METRICS_PORT": str(free_port())}
            words = [environ["CELERIAC_METRICS_PORT"] if word == "9464" else word for word in words]
        if "worker" in words:
            words += ["-n", f"celery@{hostname}"]
        log = self._folder / f"{hostname}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environ,
                cwd=home,
                start_new_session=True,
            )
        return Container(hostname, environ, process, log)

    def _wait(self, name: str, condition: str) -> None:
        if condition == "service_completed_successfully":
            container = self.wait_until_ended(name)
            assert container.process.returncode == 0, container.output()
            return
        assert condition == "service_healthy", condition
        healthcheck = self.services[name]["healthcheck"]
        kind, *rest = healthcheck["test"]
        check = [self._local(word) for word in (["sh", "-c", *rest] if kind == "CMD-SHELL" else rest)]
        for container in self.containers[name]:

            def is_healthy(container: Container = container) -> bool:
                assert container.process.poll() is None, container.output()
                return self._run(check, container).returncode == 0

            wait_until(is_healthy, f"{container.name} is healthy", every_seconds=seconds(healthcheck["start_interval"]))

    def _run(self, words: list[str], container: Container) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words,
            env=container.environ,
            cwd=self.home(container.name),
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
            check=False,
        )

    def _local(self, text: str) -> str:
        """`text` with what it names inside containers replaced by what stands for it here."""
        text = text.replace("@redis:6379", f"@127.0.0.1:{self.redis_port}")
        text = text.replace("127.0.0.1:5555", f"127.0.0.1:{self.flower_port}")
        for volume, target in self._volumes():
            folder = self._folder / "volumes" / volume
            folder.mkdir(parents=True, exist_ok=True)
            text = re.sub(rf"(?<![\w/]){target}(?!\w)", str(folder), text)
        return text

    def _volumes(self) -> set[tuple[str, str]]:
        mounts = [mount.split(":") for service in self.services.values() for mount in service.get("volumes", [])]
        return {(volume, target) for volume, target, *_ in mounts}

    def _write_programs(self) -> None:
        """What the Redis image carries, bound to a port of ours."""
        server = Path(find_redis_server())
        client = shutil.which("redis-cli", path=os.pathsep.join([str(server.parent), self.path]))
        programs = {
            "redis-server": f'exec {server} "$@" --bind 127.0.0.1 --port {self.redis_port}',
            "redis-cli": f'exec {client} -p {self.redis_port} "$@"',
        }
        for name, line in programs.items():
            program = self._folder / "bin" / name
            program.parent.mkdir(exist_ok=True)
            program.write_text(f"#!/bin/sh\n{line}\n")
            program.chmod(0o755)
