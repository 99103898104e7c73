"""Parts of which rows failed, for tests that need some: as a job hands them over where it skips or fills such rows."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np

from producer.rows.part import Part
from tasks.outputs.failed_mask import mask_path
from tasks.protocol.messages import FailureRecord, OnError
from tests.parts import split

POLICIES = [policy for policy in get_args(OnError) if policy != "raise"]


def record(row: int, stop: int | None = None, text: str = "no such row") -> FailureRecord:
    return FailureRecord(row, row + 1 if stop is None else stop, "infer", "LookupError", text)


def pick(tree: Any, rows: Any) -> Any:
    """These rows of whole outputs."""
    if isinstance(tree, dict):
        return {name: pick(below, rows) for name, below in tree.items()}
    return tree[rows]


def filled(tree: Any, failed: Collection[int]) -> Any:
    """Whole outputs with a filler for failed rows."""
    if isinstance(tree, dict):
        return {name: filled(below, failed) for name, below in tree.items()}
    whole = tree.copy()
    largest = np.iinfo(whole.dtype).max if whole.dtype.kind == "u" else 0
    values: dict[str, Any] = {"f": np.nan, "V": np.nan, "O": "", "U": "", "S": b"", "i": -1, "u": largest, "b": False}
    whole[sorted(failed)] = values[whole.dtype.kind]
    return whole


def kept(tree: Any, rows: int, failed: Collection[int], on_error: OnError) -> Any:
    """What is in the whole output in the end."""
    return filled(tree, failed) if on_error == "fill" else pick(tree, good_rows(0, rows, failed))


def good_rows(start: int, stop: int, failed: Collection[int]) -> list[int]:
    return [row for row in range(start, stop) if row not in failed]


def parts_with_failures(
    outputs: Any, rows: int, failed: Collection[int], on_error: OnError, chunk_rows: int = 5, start: int = 0
) -> list[Part]:
    """Cut whole outputs, all rows from `start` on, into parts in which these rows failed."""
    parts = []
    for chunk in split(rows - start, chunk_rows):
        first, stop = start + chunk.start, start + chunk.stop
        lost = sorted(row for row in failed if first <= row < stop)
        if on_error == "fill":
            tree, skipped = pick(filled(outputs, failed), slice(first, stop)), 0
        else:
            tree, skipped = pick(outputs, good_rows(first, stop, failed)), len(lost)
        parts.append(Part(chunk.index, first, stop, tree, tuple(map(record, lost)), skipped))
    return parts


def take_marks(path: Path, arrays: dict[str, Any], name: str = "failed") -> list[int] | None:
    """Rows that an output marks as failed, taken out of its arrays; None where it marks none."""
    if path.suffix == ".npy":
        mask = np.load(mask_path(path)) if mask_path(path).exists() else None
    else:
        mask = arrays.pop(name, None)
    if mask is None:
        return None
    assert (mask.dtype, mask.ndim) == (np.bool_, 1) or not len(mask)
    return [int(row) for row in np.flatnonzero(mask)]


def rows_of(records: Sequence[FailureRecord]) -> list[int]:
    return [row for one in records for row in range(one.start, one.stop)]
