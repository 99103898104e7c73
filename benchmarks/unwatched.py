"""The rival of `monitoring`: Celeriac's own worker, of which nobody hears while it works.

`celery -A benchmarks.unwatched worker` runs it, and nobody else may import it: functions of the product, which has no
switch for this, are replaced before the worker forks. Of events nobody wants any.
"""

from __future__ import annotations

from tasks.celery import app
from tasks.child import bootstrap, execute_chunk
from tasks.telemetry.counters import Counters

__all__ = ["app"]


class Still:
    """A stopwatch that does not run; it knows the stage, since failures name it."""

    def __init__(self, **_: object) -> None:
        self.stage = "wait"

    def enter(self, stage: str) -> None:
        """Begin a stage."""
        self.stage = stage

    def lap(self) -> dict[str, float]:
        """Nothing."""
        return {}


for place, name, replacement in (
    (bootstrap, "Stopwatch", Still),
    (execute_chunk, "_done", lambda *_: None),
    (Counters, "answered", lambda *_: None),
):
    setattr(place, name, replacement)
