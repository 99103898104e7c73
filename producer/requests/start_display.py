"""What a start does that somebody waits for, on stderr: on a terminal or in a notebook one line that lives, else lines.

step --again and again--> StartDisplay --> `celeriac: trying executors for digits, 2 of 5, 31 s, about 40 s left`
"""

from __future__ import annotations

import logging
import math
import re
import sys
import time
from types import TracebackType
from typing import Any

logger: logging.Logger = logging.getLogger(__name__)

# What takes no longer is not told: of a line that goes away again, and of lines that stay.
LIVE_AFTER_SECONDS, LINES_AFTER_SECONDS = 1.0, 5.0
# A step that goes on is told again, where lines stay.
AGAIN_SECONDS = 30.0
# Steps of many, whose pace tells how long the rest takes.
_PART = re.compile(r"(.*?)(\d+) of (\d+)\b")
# What is kept for later starts.
_KEPT = ("making", "trying", "timing")


class StartDisplay:
    """Of one start; a context, at the end of which the line goes away. Quiet: nothing is shown."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._began = time.monotonic()
        self._is_live, self._quiet = sys.stderr.isatty() or _is_notebook(), quiet
        self._line: Any = None
        self._step, self._since, self._told_at = "", self._began, -math.inf
        self._parts: tuple[str, int, float] = ("", 0, self._began)
        self._keeps = False

    def __enter__(self) -> StartDisplay:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._line is not None:
            self._line.close()
        seconds = time.monotonic() - self._began
        if kind is None and not self._quiet and seconds > LINES_AFTER_SECONDS:
            kept = "; what was prepared is kept for later starts" if self._keeps else ""
            logger.warning("ready after %.0f s%s", seconds, kept)

    def show(self, step: str) -> None:
        """This is done now; to be called again and again."""
        now = time.monotonic()
        is_new, self._step = step != self._step, step
        self._since = now if is_new else self._since
        self._keeps = self._keeps or step.startswith(_KEPT)
        text = f"{step}, {now - self._since if not self._is_live else now - self._began:.0f} s{self._left(now)}"
        if self._quiet:
            return
        if self._is_live:
            if now - self._began > LIVE_AFTER_SECONDS:
                self._draw(f"celeriac: {text}")
        elif now - self._began > LINES_AFTER_SECONDS and (is_new or now - self._told_at > AGAIN_SECONDS):
            self._told_at = now
            logger.warning("%s", text)

    def _draw(self, text: str) -> None:
        if self._line is None:
            from tqdm import tqdm  # a start that is short does without

            self._line = tqdm(total=0, bar_format="{desc}", leave=False, file=sys.stderr, dynamic_ncols=True)
        if text != self._line.desc:
            self._line.set_description_str(text)

    def _left(self, now: float) -> str:
        """How long the rest of such steps takes, by those that are done."""
        part = _PART.match(self._step)
        if part is None:
            return ""
        name, number, count = part[1], int(part[2]), int(part[3])
        if self._parts[0] != name:
            self._parts = name, number, now
        _, first, began = self._parts
        if number <= first:
            return ""
        seconds = (self._since - began) / (number - first) * (count - number + 1) - (now - self._since)
        return f", about {max(seconds, 1.0):.0f} s left"


def _is_notebook() -> bool:
    """Whether stderr is below the cell of one, where a line can be written over as on a terminal."""
    return "ipykernel" in sys.modules and type(sys.stderr).__module__.startswith("ipykernel")
