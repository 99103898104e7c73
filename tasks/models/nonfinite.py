"""Which rows of a chunk are not finite: in what models take, and in what they or their functions give.

    arrays of a link --look--> masks of its rows, at their place in a piece --add--> in a chunk --counts--> its answer

What a preprocess function takes is not looked at: a NaN there may well mean "not known". Masks are made only where
there is something to tell.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from tasks.models.finite import any_mask, rows_beyond
from tasks.protocol.codec import Key

Array = np.ndarray[Any, Any]
Side = Literal["inputs", "outputs"]


@dataclass(frozen=True)
class NotFiniteColumn:
    """What was found: at which stage, what holds it, and a mask of the rows."""

    stage: str
    what: str
    mask: Array


@dataclass
class NotFinite:
    """Of `rows` rows, those that hold a NaN or an infinity."""

    rows: int
    inputs: Array | None = None
    outputs: Array | None = None
    findings: list[NotFiniteColumn] = field(default_factory=list)

    def look(
        self, side: Side, columns: Iterable[tuple[Key, Any]], kept: Array | None, *, stage: str, model: str
    ) -> None:
        """Look at arrays, or lists of a row's arrays each.

        There are as many rows in each column as `kept` has, a mask of the rows that they are; None where that is all.
        """
        for name, column in columns:
            if not isinstance(column, list | np.ndarray):
                continue  # an empty dict or tuple: of no rows nobody knows the columns
            mask = _ragged(column) if isinstance(column, list) else rows_beyond([column])
            if mask is None:
                continue
            at = mask
            if kept is not None:
                at = np.zeros(self.rows, bool)
                at[np.flatnonzero(kept)[mask]] = True
            named = f"{side[:-1]} {'/'.join(map(str, name))!r}" if name else f"its {side[:-1]}"
            self.findings.append(NotFiniteColumn(stage, f"model {model}: {named}", at))
            self._mark(side, 0, at)

    def add(self, other: NotFinite, start: int = 0) -> None:
        """Take in what was found among rows from `start` on."""
        for side, mask in (("inputs", other.inputs), ("outputs", other.outputs)):
            if mask is not None:
                self._mark(side, start, mask)  # type: ignore[arg-type]
        if not start and other.rows == self.rows:
            self.findings += other.findings

    def any_of(self, kept: Array | None) -> Array | None:
        """A mask of the rows that are not finite, among those of another mask; None where there are none."""
        mask = any_mask((self.inputs, self.outputs))
        return mask if mask is None or kept is None else any_mask([mask & kept])

    def first_of(self, row: int) -> NotFiniteColumn:
        """What was found first in a row that `any_of` has."""
        return next(one for one in self.findings if one.mask[row])

    def counts(self, left_out: Array | None, start: int, stop: int) -> tuple[int, int]:
        """How many of rows `[start, stop)` have such inputs and such outputs, without those that a mask has."""
        rows = slice(start, stop)
        found = [mask if mask is None or left_out is None else mask & ~left_out for mask in (self.inputs, self.outputs)]
        inputs, outputs = (0 if mask is None else int(mask[rows].sum()) for mask in found)
        return inputs, outputs

    def _mark(self, side: Side, start: int, mask: Array) -> None:
        whole = getattr(self, side)
        if whole is None:
            whole = np.zeros(self.rows, bool)
            setattr(self, side, whole)
        whole[start : start + len(mask)] |= mask


def _ragged(column: list[Any]) -> Array | None:
    mask = np.array([rows_beyond([np.asarray(row)[np.newaxis]]) is not None for row in column], bool)
    return mask if mask.any() else None
