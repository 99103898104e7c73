"""Reads what is used: processors, by a tree of processes and by all others; memory, by one process."""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil


class Load:
    """What the processors did from now on: for this process and all below it, and for others."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._all, self._ours = _busy_seconds(), _our_seconds()

    def since(self) -> tuple[float, float]:
        """Processor seconds of ours, Redis and workers included; and the share of all processors that others took."""
        ours = _our_seconds() - self._ours
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


def _our_seconds() -> float:
    this = psutil.Process()
    total = 0.0
    for process in [this, *this.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            # Of children too: those that have ended and were waited for count there, and only there.
            total += sum(process.cpu_times()[:4])
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
