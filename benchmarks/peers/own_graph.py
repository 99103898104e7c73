"""Celeriac's worker with the models' own graphs alone, which is the executor that all other systems have.

`celery -A benchmarks.peers.own_graph worker` runs it: the product has no switch for this, so that a function of it is
replaced before the worker forks. Its cache must be one of its own, as trials are kept in it.
"""

from __future__ import annotations

from typing import Any

from tasks.celery import app
from tasks.preparation import trials

__all__ = ["app"]

_candidates = trials.candidates


def own_graph_alone(*words: Any) -> tuple[list[str], dict[str, str]]:
    """As of `tasks.preparation.candidates`."""
    names, _ = _candidates(*words)
    return names[:1], dict.fromkeys(names[1:], "this worker is for the own graph alone")


trials.candidates = own_graph_alone
