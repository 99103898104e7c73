"""How long until a worker with eight models is ready, when their snapshots are in the cache?

Against `python -c "import tensorflow"`, in turns: ready means that both children hold all models. Redis runs already.
The bound is 1.3 times the import, and two seconds.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import redis

from benchmarks.harness import MIN_BLOCKS, bootstrap
from benchmarks.meter import wait_until_idle
from benchmarks.models import run_apart
from benchmarks.report import Finding, at_most, control, report
from benchmarks.stage import ask
from producer.embedded import worker_command
from producer.embedded.redis_server import find_redis_server
from tasks.transport.connection import connect
from tasks.transport.worker_registry import read_slots

CHILDREN = 2
IMPORT_SHARE, EXTRA_SECONDS = 1.3, 2.0


def question(quick: bool) -> bool:
    """Start a worker, and import TensorFlow, several times; return whether the imports were alike."""
    with tempfile.TemporaryDirectory(prefix="celeriac-") as name:
        place = Path(name)
        run_apart("benchmarks.starting_models", str(place), "3" if quick else "8")
        with redis_of(place) as url:
            first = _started(place, url)
            imports, starts, again = [], [], []
            for _ in range(MIN_BLOCKS):
                wait_until_idle()
                imports.append(_import())
                starts.append(_started(place, url))
                again.append(_import())
    twice = bootstrap([one / other for one, other in zip(imports, again, strict=True)])
    bound = IMPORT_SHARE * median(imports + again) + EXTRA_SECONDS
    executors = " ".join(first[1])
    void = abs(twice.median - 1) > 0.1
    report(
        "starting",
        {"models": len(first[1]), "children": CHILDREN, "executors": executors},
        [
            Finding("import tensorflow", f"{median(imports + again):.2f} s"),
            Finding("first start, snapshots and trials included", f"{first[0]:.1f} s"),
            at_most("later start until all children are ready", median(seconds for seconds, _ in starts), bound, "s"),
            control("control: the import twice", twice),
        ],
        void=void,
        quick=quick,
        measured={"imports": imports + again, "starts": [seconds for seconds, _ in starts], "bound_seconds": bound},
    )
    return not void


def _import() -> float:
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", "import tensorflow"], check=True, stderr=subprocess.DEVNULL)
    return time.monotonic() - started


@contextmanager
def redis_of(place: Path) -> Iterator[str]:
    """The URL of a server whose socket is in this folder."""
    command = [find_redis_server(), "--port", "0", "--unixsocket", f"{place}/redis.sock", "--save", ""]
    server = subprocess.Popen([*command, "--dir", str(place)], stdout=subprocess.DEVNULL)
    try:
        yield f"unix://{place}/redis.sock"
    finally:
        server.kill()
        server.wait()


def _started(place: Path, url: str) -> tuple[float, list[str]]:
    """Seconds until its children are ready, and the executors of their models."""
    with start_worker(place, url, CHILDREN) as (seconds, _), _connected(url) as client:
        return seconds, [info.executor for info in read_slots(client)[0].models]


@contextmanager
def start_worker(place: Path, url: str, children: int) -> Iterator[tuple[float, subprocess.Popen[bytes]]]:
    """A worker on the models of a folder, and the seconds until its children were ready."""
    environ = {
        **os.environ,
        "CELERIAC_BROKER_URL": url,
        "CELERIAC_MODELS": str(place / "models.toml"),
        "CELERIAC_CACHE": str(place / "cache"),
    }
    with (place / "worker.log").open("wb") as log, _connected(url) as client:
        client.flushall()
        started = time.monotonic()
        worker = subprocess.Popen(worker_command(children), env=environ, stdout=log, stderr=log, cwd=place)
        try:
            while len(read_slots(client)) < children:
                if worker.poll() is not None:
                    raise RuntimeError((place / "worker.log").read_text()[-2000:])
                time.sleep(0.01)
            yield time.monotonic() - started, worker
        finally:
            worker.kill()
            worker.wait()


def _connected(url: str) -> redis.Redis:
    """A server that has just been started may not answer yet."""
    client = connect(url, retries=0)
    while True:
        try:
            client.ping()
            return client
        except redis.ConnectionError:
            time.sleep(0.05)


if __name__ == "__main__":
    ask(question, __doc__)
