"""Takes a Python function for a model: the rows of a batch -> an array, or a dict of arrays."""

from __future__ import annotations

from tasks.models.program import Program
from tasks.models.user_functions import import_step
from worker_config.manifest import ModelEntry

WHY_PLAIN = "a function is imported by each child"


def open_function(entry: ModelEntry) -> Program:
    """The function that `entry.path` names.

    Raises:
        ImportError: there is no such function, or its module raises.
    """
    return Program([], [], function=import_step(entry.path), why_plain=WHY_PLAIN)
