"""Reads what is used: processors, by a tree of processes and by all others; memory, by one process."""

from __future__ import annotations

import os
import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import psutil


class Load:
    """What the processors did from now on: for this process and all below it, and for others."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._all, self._ours = _busy_seconds(), our_times()

    def since(self) -> tuple[float, float]:
        """Processor seconds of ours, Redis and workers included; and the share of all processors that others took."""
        ours = seconds_between(self._ours, our_times())
        others = _busy_seconds() - self._all - ours
        return ours, max(0.0, others / (time.monotonic() - self._started) / os.cpu_count())  # type: ignore[operator]


def wait_until_idle(longest_seconds: float = 10.0, share: float = 0.05) -> None:
    """Wait until other programs leave the processors alone, but not for ever."""
    deadline = time.monotonic() + longest_seconds
    while time.monotonic() < deadline:
        load = Load()
        time.sleep(0.5)
        if load.since()[1] < share:
            return


def _busy_seconds() -> float:
    """Of all processors, whoever used them, other guests of the host included."""
    times = psutil.cpu_times()
    return sum(getattr(times, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq", "steal"))


class Times(NamedTuple):
    """Processor seconds of a process so far: its own; those of children that have ended and were waited for."""

    own: float
    waited_for: float
    parent: int


def our_times() -> dict[tuple[int, float], Times]:
    """Of this process and all below it, by pid and start."""
    this = psutil.Process()
    found: dict[tuple[int, float], Times] = {}
    for process in [this, *this.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            found[process.pid, process.create_time()] = Times(sum(times[:2]), sum(times[2:4]), process.ppid())
    return found


def seconds_between(before: Mapping[tuple[int, float], Times], after: Mapping[tuple[int, float], Times]) -> float:
    """What was used meanwhile; of processes that nobody waited for, nothing is known once they have ended."""
    living, parents = {pid for pid, _ in after}, {pid: one.parent for (pid, _), one in before.items()}
    # Whoever waits for a process is told all of its time, that from before included.
    told: defaultdict[int, float] = defaultdict(float)
    for key, ended in before.items():
        if key not in after:
            parent = ended.parent
            while parent not in living and parent in parents:
                parent = parents[parent]
            told[parent] += ended.own + ended.waited_for
    total = 0.0
    for key, now in after.items():
        then = before.get(key, Times(0.0, 0.0, 0))
        total += now.own - then.own + max(0.0, now.waited_for - then.waited_for - told[key[0]])
    return total


@dataclass(frozen=True)
class Memory:
    """Memory of a process in bytes.

    Attributes:
        pss: all that it uses, pages that are shared counted by share; pages of mapped files are in it.
        own: without the pages of files, which the kernel takes back whenever it wants.
        rss: as `top` shows it.
    """

    pss: int
    own: int
    rss: int

    @classmethod
    def of(cls, pid: int) -> Memory:
        """Read it; Linux alone tells."""
        fields = {}
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
            name, amount, _ = line.split()
            fields[name] = int(amount) * 1024
        return cls(fields["Pss:"], fields["Pss_Anon:"] + fields["Pss_Shmem:"], fields["Rss:"])

    def peak(self, other: Memory) -> Memory:
        """The larger of each."""
        return Memory(max(self.pss, other.pss), max(self.own, other.own), max(self.rss, other.rss))

    def above(self, other: Memory) -> Memory:
        """How much more than `other`."""
        return Memory(self.pss - other.pss, self.own - other.own, self.rss - other.rss)


class PeakMemory:
    """Samples a process's memory from outside, from now until `stop`."""

    def __init__(self, pid: int, every_seconds: float = 0.02) -> None:
        self.peak = Memory(0, 0, 0)
        self._pid = pid
        self._every_seconds = every_seconds
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def stop(self) -> Memory:
        """End, and tell the most that was seen."""
        self._stopped.set()
        self._thread.join()
        return self.peak

    def _sample(self) -> None:
        with suppress(ProcessLookupError, FileNotFoundError):
            while not self._stopped.wait(self._every_seconds):
                self.peak = self.peak.peak(Memory.of(self._pid))
