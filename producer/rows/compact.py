"""This module moves the rows of an array up to where others are missing."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any, TypeAlias

import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]

# NumPy copies what overlaps, so not all rows are moved at once.
MOVED_BYTES = 16 * 2**20


def close_gaps(array: Array, gaps: Iterable[tuple[int, int]]) -> Array:
    """The rows of an array that are in none of the gaps `[start, stop)`, in order; in its own memory."""
    end = 0
    for (_, start), (stop, _) in pairwise([(0, 0), *sorted(gaps), (len(array), len(array))]):
        if start > end:
            _move(array, start, stop, end)
        end += stop - start
    return array[:end]


def _move(array: Array, start: int, stop: int, to: int) -> None:
    rows = max(1, MOVED_BYTES // max(1, array[:1].nbytes))
    for first in range(start, stop, rows):
        last = min(first + rows, stop)
        array[to + first - start : to + last - start] = array[first:last]
