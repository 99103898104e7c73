"""This module is what stands in the place of rows that failed, or how they are left out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from producer.rows.part import OutputTree, Part, flatten, unflatten
from tasks.protocol.fill_values import filler_rows
from tasks.protocol.messages import FailureRecord


def blank_like(form: OutputTree, rows: int) -> OutputTree:
    """Outputs of so many rows that all failed; `form` has the dtypes and the shapes of a row."""
    arrays = flatten(Part(0, 0, 0, form))
    return unflatten({key: filler_rows(array.dtype, (rows, *array.shape[1:])) for key, array in arrays.items()})


def drop_rows(part: Part, *, with_failed: bool) -> Part:
    """The part without the rows that were left out on purpose, and without those that failed, if so wished."""
    kept = np.ones(part.stop - part.start, bool)
    failed = [(record.start, record.stop) for record in part.failed] if with_failed else []
    for start, stop in (*failed, *part.dropped):
        kept[start - part.start : stop - part.start] = False
    arrays = unflatten({key: array[kept] for key, array in flatten(part).items()})
    return replace(part, outputs=arrays, skipped=int(len(kept) - kept.sum()))


def count_rows(records: Iterable[FailureRecord]) -> int:
    """How many rows records are of."""
    return sum(record.stop - record.start for record in records)
