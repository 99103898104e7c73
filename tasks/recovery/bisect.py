"""Finds bad rows: what fails as a whole is run in halves, and those again, until bad rows stand alone.

One bad row among n costs about 2 log2(n) more calls; n bad rows cost 2n - 1 in all.
"""

from __future__ import annotations

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
