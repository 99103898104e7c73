"""Reads how much memory processes have of their own, and how much new ones may have."""

from __future__ import annotations

import ctypes
import gc
import re
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
_CGROUP = Path("/sys/fs/cgroup")
# In which the memory of other processes is looked at.
LOOK_SECONDS = 0.3


def own_bytes() -> int:
    """Memory of this process alone, without the pages of mapped files, which the kernel shares and takes back."""
    import psutil  # which a producer need not have

    memory = psutil.Process().memory_info()
    return int(memory.rss - getattr(memory, "shared", 0))


def of_processes(pids: Iterable[int]) -> dict[int, tuple[int, int]]:
    """By pid, the bytes that other processes have of their own, and with their share of what they share (PSS).

    Each takes milliseconds to look at, in which it cannot change its memory: those for which the time does not do are
    left out, as are those that are gone.
    """
    import psutil

    found, until = {}, time.monotonic() + LOOK_SECONDS
    for pid in pids:
        if time.monotonic() < until:
            with suppress(psutil.Error):
                memory = psutil.Process(pid).memory_full_info()
                found[pid] = int(memory.uss), int(getattr(memory, "pss", memory.uss))
    return found


def give_back() -> None:
    """Return freed memory to the system; the C library keeps much of what parsing a large graph took."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def with_peak(run: Callable[[], T]) -> tuple[T, int]:
    """What a call gives, and by how many bytes this process was larger meanwhile; 0 where the system does not tell."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = _of_status("VmRSS")
    except OSError:
        return run(), 0
    return run(), max(0, _of_status("VmHWM") - before)


def _of_status(key: str) -> int:
    found = re.search(rf"^{key}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return 1024 * int(found[1]) if found else 0


def available_bytes(cgroup: Path = _CGROUP) -> int:
    """Memory that new processes may have: the machine's, or the container's where that is less."""
    import psutil

    free = int(psutil.virtual_memory().available)
    try:
        limit, used = ((cgroup / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return free
    return free if limit == "max" else max(0, min(free, int(limit) - int(used)))
