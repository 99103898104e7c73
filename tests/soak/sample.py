"""What a system uses when it is at rest: memory, threads and descriptors of each process, keys, files; and how fast it
answers then.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import psutil
import redis

from benchmarks.meter import Memory
from tests.chaos.arena import Arena
from tests.soak.producer import PROBES, Producer
from worker_config.broker import KEY_PREFIX


@dataclass(frozen=True)
class ProcessSample:
    """One process: what it is, bytes, threads, and how many descriptors of each kind."""

    kind: str
    pid: int
    pss: int
    own: int
    threads: int
    descriptors: dict[str, int]


@dataclass(frozen=True)
class Probe:
    """Jobs of one chunk, one after the other: seconds from submit to the outputs; processor seconds of each, of all."""

    median: float
    percentile_95: float
    cpu: float


@dataclass(frozen=True)
class Sample:
    """All of it at a moment, in seconds since the beginning; counts by kind of key, and by folder of files."""

    at: float
    lap: int
    processes: list[ProcessSample]
    keys: dict[str, int]
    redis_bytes: int
    files: dict[str, int]
    probe: Probe

    def as_dict(self) -> dict[str, Any]:
        """For a line of JSON."""
        return asdict(self)


class Sampler:
    """Takes samples of an arena; `others` are processes besides, by what they are."""

    def __init__(self, arena: Arena, producer: Producer, others: Mapping[str, int]) -> None:
        self._arena, self._producer, self._others = arena, producer, others
        self._began = time.monotonic()

    def take(self, lap: int) -> Sample:
        """Sample a system at rest."""
        probe = self._probe()
        server = self._arena.server
        return Sample(
            at=time.monotonic() - self._began,
            lap=lap,
            processes=[_sample(kind, pid) for kind, pid in self._processes()],
            keys=_keys(server),
            redis_bytes=cast("dict[str, int]", server.info("memory"))["used_memory"],
            files=self._files(),
            probe=probe,
        )

    def _processes(self) -> list[tuple[str, int]]:
        """Each that lives longer than a job, with what it is."""
        found = [("producer", self._producer.pid), ("Redis", self._arena.system.redis.pid)]
        found += self._others.items()
        slots = {slot.pid for slot in self._arena.system.slots()}
        for worker in self._arena.ready_workers():
            spared = ", never killed" * (worker is self._arena.spared)
            found.append((f"main process{spared}", worker.pid))
            for child in psutil.Process(worker.pid).children():
                found.append((("child" if child.pid in slots else "helper") + spared, child.pid))
        return found

    def _files(self) -> dict[str, int]:
        folders = {"spool": self._arena.spool, "temporary": self._arena.temporary}
        return {name: sum(1 for _ in folder.rglob("*")) for name, folder in folders.items()}

    def _probe(self) -> Probe:
        processes = [psutil.Process(pid) for _, pid in self._processes()]
        before = _cpu_seconds(processes)
        seconds = self._producer.ask("probe")
        cpu = (_cpu_seconds(processes) - before) / PROBES
        return Probe(float(np.median(seconds)), float(np.percentile(seconds, 95)), cpu)


def _sample(kind: str, pid: int) -> ProcessSample:
    memory = Memory.of(pid)
    return ProcessSample(kind, pid, memory.pss, memory.own, psutil.Process(pid).num_threads(), _descriptors(pid))


def _descriptors(pid: int) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # it was closed meanwhile
            target = str(entry.readlink())
            counts["files" if target.startswith("/") else target.partition(":")[0]] += 1
    return dict(sorted(counts.items()))


def _keys(server: redis.Redis) -> dict[str, int]:
    """How many there are of each kind: names without ids, numbers and hosts."""
    names = (key.decode().removeprefix(KEY_PREFIX) for key in cast("list[bytes]", list(server.scan_iter("*"))))
    kinds = Counter(re.sub(r"(?<=[:.])([0-9a-f]{12}|\d+|\w+@.*|[0-9a-f-]{36}.*)", "*", name) for name in names)
    return dict(sorted(kinds.items()))


def _cpu_seconds(processes: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)
