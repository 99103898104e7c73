"""Waiting for a condition, never for a number of seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import psutil

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
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def descendants_of(pid: int) -> list[int]:
    """Children, their children, and so on."""
    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


def take(seconds: float) -> None:
    """Take that long, as a model would."""
    time.sleep(seconds)
