"""Rows without a prediction: a filler in their place, or left out, and those after them moved up."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise

import numpy as np

from producer.rows.part import OutputTree, Part, flatten, unflatten
from tasks.protocol.codec import Array, leaves_of
from tasks.protocol.dtypes import filler_rows

# NumPy copies what overlaps, so not all rows are moved at once.
MOVED_BYTES = 16 * 2**20


def blank_like(form: OutputTree, rows: int) -> OutputTree:
    """Outputs of so many rows that all failed; `form` has the dtypes and the shapes of a row, and texts or bytes."""
    return unflatten(
        {
            key: filler_rows(array.dtype, (rows, *array.shape[1:]), next(array.flat, None))
            for key, array in leaves_of(form)
        }
    )


def drop_rows(part: Part, *, with_failed: bool) -> Part:
    """The part without the rows that were left out on purpose, and without those that failed, if so wished."""
    kept = np.ones(part.stop - part.start, bool)
    failed = [(record.start, record.stop) for record in part.failed] if with_failed else []
    for start, stop in (*failed, *part.dropped):
        kept[start - part.start : stop - part.start] = False
    arrays = unflatten({key: array[kept] for key, array in flatten(part).items()})
    return replace(part, outputs=arrays, skipped=int(len(kept) - kept.sum()))


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
