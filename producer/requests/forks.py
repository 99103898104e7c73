"""Tells clients what becomes of their process.

It was forked, as by web servers: threads are gone, and connections are the parent's. It ends: so do they.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from typing import Protocol
from weakref import WeakSet, ref


class HasParent(Protocol):
    """Somebody who has to begin anew in a child."""

    def after_fork(self) -> None:
        """In the child, before anything else runs there."""


class HasEnd(Protocol):
    """Somebody who has something to put in order."""

    def close(self) -> None:
        """At the end of the process, if not before."""


_TOLD: WeakSet[HasParent] = WeakSet()


def tell_of_forks(one: HasParent) -> None:
    """Tell it, as long as it lives."""
    _TOLD.add(one)


def close_at_exit(one: HasEnd) -> Callable[[], None]:
    """Close it when the process ends, if it lives until then; what is returned takes that back."""

    def close() -> None:
        if (living := known()) is not None:
            living.close()

    def take_back() -> None:
        atexit.unregister(close)

    known = ref(one, lambda _: take_back())
    atexit.register(close)
    return take_back


def _tell() -> None:
    for one in list(_TOLD):
        one.after_fork()


os.register_at_fork(after_in_child=_tell)
