"""What the values of a job's rows have reached so far, by column, and which rows are beyond it.

table of rows and columns --extremes--> smallest, largest --Range.beyond--> rows, and how far each is beyond
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, Any]
# Rows, and how much each is worth to be held; a row may come twice.
Scored: TypeAlias = tuple[Array, Array]

FEW_COLUMNS = 4
# Of wider rows, a block in the middle is looked at.
MOST_VALUES = 4096


@dataclass
class Range:
    """What the values of one array have reached, by column."""

    low: Array
    high: Array

    def beyond(self, table: Array, low: Array, high: Array, margin: float) -> Scored | None:
        """The rows beyond the range, and how far in its widths; None where none is. The range then has them, too.

        What is beyond by less than the margin does not count, and leaves the range as it is.
        """
        out = margin * (self.high - self.low)
        below, above = self.low - out, self.high + out
        columns = np.flatnonzero((low < below) | (high > above))
        if not columns.size:
            return None
        if columns.size <= FEW_COLUMNS:  # of a table of many
            apart = [_outside(table[:, column], below[column], above[column]) for column in columns]
            rows, places = np.concatenate(apart), np.repeat(columns, [len(one) for one in apart])
        else:
            kind = table.dtype if table.dtype.kind == "f" else np.float64
            rows, places = np.divmod(_outside(table, below.astype(kind), above.astype(kind)), table.shape[1])
        was_low, was_high = self.low[places], self.high[places]
        values = table[rows, places].astype(np.float64)
        width = np.maximum(was_high - was_low, 1e-6 * np.maximum(np.abs(was_low), np.abs(was_high)))
        width = np.where(width > 0, width, np.finfo(np.float64).tiny)
        with np.errstate(over="ignore"):
            scores = np.asarray(np.maximum(was_low - values, values - was_high) / width)
        self.low[columns] = np.minimum(self.low[columns], low[columns])
        self.high[columns] = np.maximum(self.high[columns], high[columns])
        return rows, scores


def extremes(table: Array) -> tuple[Array, Array]:
    """Smallest and largest value of each column; several narrow rows are taken for a wide one, which is ten times as
    fast.
    """
    rows, columns = table.shape
    together = 1 << (max(1, min(MOST_VALUES // columns, rows)).bit_length() - 1)
    if together == 1 or not table.flags.c_contiguous:
        return table.min(axis=0), table.max(axis=0)
    whole = rows - rows % together
    wide, rest = table[:whole].reshape(-1, together * columns), table[whole:]
    return _folded(np.minimum, wide.min(axis=0), rest), _folded(np.maximum, wide.max(axis=0), rest)


def _folded(least: np.ufunc, wide: Array, rest: Array) -> Array:
    """One row of the columns of `rest`, from a wide one and from `rest`."""
    while len(wide) > rest.shape[1]:
        half = len(wide) // 2
        wide = least(wide[:half], wide[half:])
    return np.asarray(least(wide, least.reduce(rest, axis=0))) if len(rest) else wide


def _outside(values: Array, below: Array, above: Array) -> Array:
    """Where values are, as places in all of them."""
    return np.flatnonzero((values < below) | (values > above))


def made_finite(table: Array, known: Range) -> tuple[Array, Array]:
    """The table with what is not finite inside the range, and a mask of the rows in which all was."""
    finite = np.isfinite(table)
    return np.where(finite, table, known.low.astype(table.dtype)), np.asarray(finite.all(axis=1))
