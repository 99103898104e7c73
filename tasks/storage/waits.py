"""What this process waits for: requests that a store does not answer --the oldest one--> who tells others of it.

A thread whose request fails and is made again begins a wait, and ends it with the answer, or with the error.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeAlias

# Since when, by `time.monotonic`, and for what, in words; 0 and an empty text where nothing is waited for.
Tell: TypeAlias = Callable[[float, str], None]

_lock = threading.Lock()
_waits: dict[int, tuple[float, str]] = {}
_listeners: list[Tell] = []


def tell_to(tell: Tell) -> None:
    """Have waits of this process told from now on, whenever they change."""
    _listeners[:] = [tell]


def begin(since: float, text: str) -> None:
    """This thread waits; what it was said to wait for before is replaced."""
    with _lock:
        _waits[threading.get_ident()] = since, text
        _tell()


def end() -> None:
    """This thread goes on; harmless where it did not wait."""
    with _lock:
        if _waits.pop(threading.get_ident(), None):
            _tell()


def _tell() -> None:
    oldest = min(_waits.values(), default=(0.0, ""))
    for tell in _listeners:
        tell(*oldest)
