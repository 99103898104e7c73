"""The worker of `limits` whose slots do nothing, so that its main process is what limits it.

`celery -A benchmarks.limits_idle worker` runs it, and nobody else may import it: what a child does with a chunk is
replaced before the worker forks. The main process takes messages, gives them to children and acknowledges them as ever.
"""

from __future__ import annotations

from tasks.celery import app
from tasks.child import execute_chunk

__all__ = ["app"]


def do_nothing(*_: object) -> str:
    """Not even ask Redis."""
    return ""


execute_chunk.run_message = do_nothing
