"""Waiting for a condition, never for a number of seconds."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Protocol, TypeVar

import psutil

T = TypeVar("T")


class _Job(Protocol):
    def wait(self, timeout_seconds: float) -> bool: ...

    def progress(self) -> object: ...


class _Process(Protocol):
    def poll(self) -> int | None: ...


def wait_until(condition: Callable[[], T], what: str, timeout_seconds: float = 90.0, every_seconds: float = 0.02) -> T:
    """Return the condition's first true value; fail when it takes far longer than a machine of our own needs."""
    started = time.monotonic()
    while not (value := condition()):
        waited = time.monotonic() - started
        if waited > timeout_seconds and waited > timeout_seconds * slowdown():
            raise AssertionError(f"waited {waited:.0f} s in vain until {what}")
        time.sleep(every_seconds)
    return value


def wait_for_job(job: _Job) -> None:
    """Wait until a job has ended."""
    try:
        wait_until(lambda: job.wait(1), "the job ends")
    except AssertionError as error:
        error.add_note(str(job.progress()))
        raise


def wait_for_exit(process: _Process, every_seconds: float = 0.02) -> int:
    """Wait until a process has ended; returns its exit code."""
    wait_until(lambda: process.poll() is not None, "the process ends", every_seconds=every_seconds)
    code = process.poll()
    assert code is not None
    return code


def has_status(pid: int, status: str) -> bool:
    """Whether a process is there, and so."""
    try:
        return psutil.Process(pid).status() == status
    except psutil.NoSuchProcess:
        return False


def slowdown() -> float:
    """How many times longer than by itself work takes here now, as others use the machine too; at least 1.

    What a user is promised in seconds is promised for a machine that does nothing else.
    """
    began, used = time.monotonic(), time.process_time()
    while time.process_time() - used < 0.1:
        pass
    # Of the last minute, or the last five, as a moment of peace tells nothing of what was before.
    load = max(os.getloadavg()[:2]) / (os.cpu_count() or 1)
    return max(1.0, load, (time.monotonic() - began) / (time.process_time() - used))


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
