"""Refuses to fork a process in which TensorFlow has already run an operation.

Its thread pool does not survive the fork: the child would wait for ever at its first operation.
"""

from __future__ import annotations

import sys

from worker_config.errors import WorkerStartError


def tensorflow_ran_here() -> bool:
    """Whether TensorFlow's runtime has been started in this process; importing it does not start it."""
    # TensorFlow has no public question for this; a test pins the names to what they mean.
    context = sys.modules.get("tensorflow.python.eager.context")
    current = getattr(context, "_context", None)
    return current is not None and bool(current._initialized)


def check_not_initialized() -> None:
    """Raise WorkerStartError if a child forked from here would hang."""
    if tensorflow_ran_here():
        raise WorkerStartError(
            "TensorFlow ran an operation in the worker's main process, so its children would hang for ever; "
            "move that operation (a tensor, a layer, a model at import time) into a function"
        )
