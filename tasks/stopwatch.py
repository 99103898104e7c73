"""This module shares a child's time among the stages of its chunks, so that no second of it is missing.

wait --a chunk comes--> fetch, decode, model, preprocess, infer, postprocess, encode, store, answer --> wait
"""

from __future__ import annotations

import time
from collections.abc import Callable

# In the order in which a chunk goes through them. "wait" is before it came, "answer" that of the chunk before it.
STAGES = ("wait", "fetch", "decode", "model", "preprocess", "infer", "postprocess", "encode", "store", "answer")


class Stopwatch:
    """Seconds by stage; always in one of them.

    Attributes:
        stage: the one that runs.
        listener: told of each stage that ends: its name, its begin and its end, by the clock.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.stage = "wait"
        self.listener: Callable[[str, float, float], None] | None = None
        self._clock = clock
        self._since = clock()
        self._seconds: dict[str, float] = {}

    def enter(self, stage: str) -> None:
        """End the stage that runs, and begin another one."""
        now = self._clock()
        self._seconds[self.stage] = self._seconds.get(self.stage, 0.0) + now - self._since
        if self.listener:
            self.listener(self.stage, self._since, now)
        self.stage, self._since = stage, now

    def take(self) -> dict[str, float]:
        """The seconds of each stage since they were last taken, in microseconds' precision; that which runs goes on."""
        self.enter(self.stage)
        seconds, self._seconds = self._seconds, {}
        return {stage: round(spent, 6) for stage, spent in seconds.items()}
