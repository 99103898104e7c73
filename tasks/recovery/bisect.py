"""Finds bad rows: what fails as a whole is run in halves, and those again, until bad rows stand alone.

One bad row among n costs about 2 log2(n) more calls; n bad rows cost 2n - 1 in all. A single one, where that is enough,
costs log2(n) + 1.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")


def halved(
    run: Callable[[int, int], T], start: int, stop: int, *, failed: Callable[[T], bool]
) -> Iterator[tuple[int, int, T]]:
    """Pieces of `[start, stop)` in order, each with what `run` made of it: it went through, or is one row that failed.

    Args:
        run: called with the bounds of a piece, the whole first.
        start, stop: the rows; if there are none, `run` is called once, with none.
        failed: whether `run` failed, by what it returned.
    """
    waiting = [(start, stop)]
    while waiting:
        first, last = waiting.pop()
        result = run(first, last)
        if last - first > 1 and failed(result):
            middle = (first + last) // 2
            waiting += [(middle, last), (first, middle)]
        else:
            yield first, last, result


def one_failed(run: Callable[[int, int], T | None], start: int, stop: int, *, seconds: float) -> T | None:
    """What `run` gives of one row that fails by itself, of several `[start, stop)` that fail together.

    Args:
        run: called with the bounds of a piece; gives None of one that goes through.
        start, stop: the rows.
        seconds: after which no more is tried.

    Returns:
        That of the first such row; None where none was found.
    """
    until, found = time.monotonic() + seconds, None
    while stop - start > 1:
        if time.monotonic() > until:
            return None
        middle = (start + stop) // 2
        found = run(start, middle)
        start, stop = (middle, stop) if found is None else (start, middle)
    return run(start, stop) if found is None else found
