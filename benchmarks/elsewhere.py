"""What does a worker without TensorFlow take to start, beside one with it, on the same built set?

`python -m benchmarks.elsewhere` builds a set of two models, starts workers of two children on it, in turns, and prints
medians until all children are ready: seconds, processor seconds, and the memory of all processes (PSS). Redis runs
already, and the cache has the snapshots. The third worker runs the models' own graphs, for which it imports TensorFlow.
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
from typing import NamedTuple

import psutil
import redis

from benchmarks.models import run_apart
from producer.embedded.redis_server import find_redis_server
from tasks.transport.connection import connect
from tasks.transport.worker_registry import read_slots
from tests.environments import build_wheel, make_small_environment
from worker_config.model_paths import MANIFEST

CHILDREN, TIMES = 2, 5
MIB = 2**20


class Start(NamedTuple):
    """Until all children are ready."""

    seconds: float
    processor_seconds: float
    pss_mib: float
    executors: list[str]


def main() -> None:
    """Start each worker once to fill the cache, then in turns, and print the medians."""
    with tempfile.TemporaryDirectory(prefix="celeriac-") as name:
        place = Path(name)
        wheel = build_wheel(place / "wheel")
        pythons = {
            f"celeriac[{extra}]": make_small_environment(place / extra, wheel, [extra]) / "bin" / "python"
            for extra in ("runtime", "worker")
        }
        run_apart("benchmarks.starting_models", name, "2")
        own = place / "own"
        own.mkdir()
        tables = (place / MANIFEST).read_text().replace('path = "', f'independent_rows = false\npath = "{place}/')
        (own / MANIFEST).write_text(tables)
        command = [sys.executable, "-m", "tasks.build", str(place / MANIFEST), str(place / "set")]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        arms = {name: (python, place / "set") for name, python in pythons.items()}
        arms["celeriac[worker], own graphs"] = (pythons["celeriac[worker]"], own)
        with _redis(place) as client:
            first = {name: _start(place, client, *arm) for name, arm in arms.items()}
            starts: dict[str, list[Start]] = {name: [] for name in arms}
            for _ in range(TIMES):
                for name, arm in arms.items():
                    starts[name].append(_start(place, client, *arm))
        for extra in ("runtime", "worker"):
            print(f"{_installed_mib(place / extra):8,.0f} MiB installed  celeriac[{extra}]")
        for name, found in starts.items():
            seconds, processor, pss = (median(one[number] for one in found) for number in range(3))
            print(
                f"{seconds:6.2f} s, {processor:5.2f} processor s, {pss:6,.0f} MiB  {name}: "
                f"{', '.join(found[0].executors)} (first start {first[name].seconds:.1f} s)"
            )


def _start(place: Path, client: redis.Redis, python: Path, models: Path) -> Start:
    environ = {
        **os.environ,
        "CELERIAC_BROKER_URL": f"unix://{place}/redis.sock",
        "CELERIAC_MODELS": str(models),
        "CELERIAC_CACHE": str(place / f"cache-{python.parents[2].name}-{models.name}"),
        "CELERIAC_INTRA_OP_THREADS": "1",
    }
    client.flushall()
    command = [str(python), "-m", "celery", "-A", "tasks", "worker", "-c", str(CHILDREN)]
    with (place / "worker.log").open("wb") as log:
        started = time.monotonic()
        worker = subprocess.Popen(command, env=environ, stdout=log, stderr=log, cwd=place / "wheel")
        try:
            while len(slots := read_slots(client)) < CHILDREN:
                if worker.poll() is not None:
                    raise RuntimeError((place / "worker.log").read_text()[-2000:])
                time.sleep(0.01)
            seconds = time.monotonic() - started
            every = [psutil.Process(pid) for pid in (worker.pid, *(slot.pid for slot in slots))]
            # Those that have ended count where they were waited for.
            processor = sum(sum(one.cpu_times()[:4]) for one in every)
            pss = sum(one.memory_full_info().pss for one in every)
            return Start(seconds, processor, pss / MIB, [info.executor for info in slots[0].models])
        finally:
            worker.kill()
            worker.wait()


def _installed_mib(environment: Path) -> float:
    """What the distributions take on the disk, links followed."""
    folders = [environment / "packages", *environment.glob("venv/lib/python*/site-packages")]
    files = (path for folder in folders for top in folder.iterdir() for path in top.resolve().rglob("*"))
    return sum(path.stat().st_size for path in files if path.is_file()) / MIB


@contextmanager
def _redis(place: Path) -> Iterator[redis.Redis]:
    options = ["--port", "0", "--unixsocket", f"{place}/redis.sock", "--save", "", "--dir", str(place)]
    server = subprocess.Popen([find_redis_server(), *options], stdout=subprocess.DEVNULL)
    try:
        with connect(f"unix://{place}/redis.sock", retries=60) as client:
            client.ping()
            yield client
    finally:
        server.kill()
        server.wait()


if __name__ == "__main__":
    main()
