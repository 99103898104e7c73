"""Reads how much memory this process has of its own, and how much new ones may have."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def own_bytes() -> int:
    """Memory of this process alone, without the pages of mapped files, which the kernel shares and takes back."""
    import psutil  # which a producer need not have

    memory = psutil.Process().memory_info()
    return int(memory.rss - getattr(memory, "shared", 0))


def of_process(pid: int) -> tuple[int, int]:
    """Bytes that another process has of its own, and with its share of what it shares (PSS); takes milliseconds.

    Raises:
        ProcessLookupError: it is gone, or its memory cannot be looked at here.
    """
    import psutil

    try:
        memory = psutil.Process(pid).memory_full_info()
    except psutil.Error as error:
        raise ProcessLookupError(str(error)) from None
    return int(memory.uss), int(getattr(memory, "pss", memory.uss))


def give_back() -> None:
    """Return freed memory to the system; the C library keeps much of what parsing a large graph took."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def available_bytes(cgroup: Path = _CGROUP) -> int:
    """Memory that new processes may have: the machine's, or the container's where that is less."""
    import psutil

    free = int(psutil.virtual_memory().available)
    try:
        limit, used = ((cgroup / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return free
    return free if limit == "max" else max(0, min(free, int(limit) - int(used)))
