"""Shares a child's time among the stages of its chunks, so that no second of it is missing.

wait --a chunk comes--> fetch, decode, model, preprocess, infer, postprocess, encode, store, answer --> wait

It does so twice: `lap` gives what was since it was last called, for an answer; `cells` keep the sums, where others may
look at any time (`seconds_in`), also while a stage runs.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Mapping, MutableSequence, Sequence

from tasks.protocol.messages import STAGES

_NUMBERS: Mapping[str, int] = {stage: number for number, stage in enumerate(STAGES)}
# In the cells: when the stage that runs began, 0 if none has; its number; then the seconds of each stage.
_SINCE, _STAGE, _SUMS = 0, 1, 2
CELLS = _SUMS + len(STAGES)


class Stopwatch:
    """Seconds by stage; always in one of them.

    Args:
        clock: the same for all that look at the cells.
        cells: CELLS numbers, perhaps those of another stopwatch, whose last stage then ends now.

    Attributes:
        stage: the one that runs.
        listener: told of each stage that ends: its name, its begin and its end, by the clock.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, cells: MutableSequence[float] | None = None
    ) -> None:
        self.stage = "wait"
        self.listener: Callable[[str, float, float], None] | None = None
        self._clock = clock
        self._since = clock()
        self._seconds: dict[str, float] = {}
        self._cells = array("d", bytes(8 * CELLS)) if cells is None else cells
        began, number = self._cells[_SINCE], int(self._cells[_STAGE])
        self._note(number, self._since - began if began else 0.0)

    def enter(self, stage: str) -> None:
        """End the stage that runs, and begin another one."""
        now = self._clock()
        ended, spent = self.stage, now - self._since
        self._seconds[ended] = self._seconds.get(ended, 0.0) + spent
        if self.listener:
            self.listener(ended, self._since, now)
        self.stage, self._since = stage, now
        self._note(_NUMBERS[ended], spent)

    def begin(self) -> None:
        """Enter the first stage of a chunk, to which it was waiting what others took that were given no answer."""
        self.enter("fetch")
        others = sum(self._seconds.pop(stage, 0.0) for stage in STAGES if stage not in ("wait", "answer"))
        self._seconds["wait"] = self._seconds.get("wait", 0.0) + others

    def lap(self) -> dict[str, float]:
        """The seconds of each stage since the last lap, in microseconds' precision; that which runs goes on."""
        self.enter(self.stage)
        seconds, self._seconds = self._seconds, {}
        return {stage: round(spent, 6) for stage, spent in seconds.items()}

    def _note(self, ended: int, spent: float) -> None:
        cells = self._cells
        # In this order: who looks in between sees too little, never too much.
        cells[_SINCE] = self._since
        cells[_STAGE] = _NUMBERS[self.stage]
        cells[_SUMS + ended] += spent


def stage_in(cells: Sequence[float]) -> str:
    """The stage that runs."""
    return STAGES[int(cells[_STAGE])]


def seconds_in(cells: Sequence[float], now: float) -> dict[str, float]:
    """All seconds up to now by stage, as a stopwatch with these cells counts them."""
    seconds = dict(zip(STAGES, cells[_SUMS:CELLS], strict=True))
    if cells[_SINCE]:
        seconds[stage_in(cells)] += max(0.0, now - cells[_SINCE])
    return seconds
