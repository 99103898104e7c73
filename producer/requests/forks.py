"""Tells clients that this process was forked, as web servers do: threads are gone, and connections are the parent's."""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet


class HasParent(Protocol):
    """Somebody who has to begin anew in a child."""

    def after_fork(self) -> None:
        """In the child, before anything else runs there."""


_TOLD: WeakSet[HasParent] = WeakSet()


def tell_of_forks(one: HasParent) -> None:
    """Tell it, as long as it lives."""
    _TOLD.add(one)


def _tell() -> None:
    for one in list(_TOLD):
        one.after_fork()


os.register_at_fork(after_in_child=_tell)
