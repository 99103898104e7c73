"""Waiting for a condition, never for a number of seconds."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(condition: Callable[[], T], what: str, timeout_seconds: float = 90.0) -> T:
    """Return the condition's first true value; fail when it takes far longer than a slow machine needs."""
    deadline = time.monotonic() + timeout_seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_seconds} s in vain until {what}")
        time.sleep(0.02)
    return value


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent does not."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def children_of(pid: int) -> list[int]:
    """Direct children of a process."""
    found = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{entry}/stat") as stat:
                if int(stat.read().rpartition(")")[2].split()[1]) == pid:
                    found.append(int(entry))
        except FileNotFoundError:
            continue
    return found


def descendants_of(pid: int) -> list[int]:
    """Children, their children, and so on."""
    direct = children_of(pid)
    return direct + [below for child in direct for below in descendants_of(child)]
