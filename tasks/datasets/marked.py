"""Batches of which some rows cannot be fed to a model: taken apart, put together."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from tasks.datasets.rows import Column, Marked, Rows
from tasks.protocol.codec import Array
from tasks.protocol.dtypes import filler_rows
from worker_config.errors import InputError


def marked(rows: Rows, unfed: Mapping[int, str], nulls: Mapping[str, Array] = MappingProxyType({})) -> Rows:
    """Rows, those that cannot be fed marked, if there are any."""
    return Marked(rows, unfed, nulls) if unfed else rows


def plain(rows: Rows) -> Rows:
    """The rows without their marks."""
    return rows.rows if isinstance(rows, Marked) else rows


def unfed_of(rows: Rows) -> Mapping[int, str]:
    """Which of them cannot be fed, and why."""
    return rows.unfed if isinstance(rows, Marked) else {}


def nulls_of(rows: Rows) -> Mapping[str, Array]:
    """Of columns that have nulls, in which rows."""
    return rows.nulls if isinstance(rows, Marked) else {}


def masked(values: Array, nulls: Array) -> Array:
    """The values, a masked array where rows are null."""
    if not nulls.any():
        return values
    return np.ma.array(values, mask=np.broadcast_to(nulls.reshape(-1, *[1] * (values.ndim - 1)), values.shape))


def all_fed(rows: Rows) -> Rows:
    """The rows, of which none may be marked; raises InputError, which says why, where one is."""
    for _, why in sorted(unfed_of(rows).items()):
        raise InputError(f"{why}, or let such rows fail (on_error is 'raise')")
    return rows


def null_text(where: str, row: int) -> str:
    """Why a row that is null cannot be fed."""
    return f"{where}{': ' if where else ''}row {row} is or holds null; fill nulls before, or leave the column out"


def spread(column: Column, nulls: Array) -> Column:
    """The values of all rows, of those that are not null: in the place of one that is stands the one before it."""
    if isinstance(column, np.ndarray) and not len(column):
        return filler_rows(column.dtype, (len(nulls), *column.shape[1:]))
    nearest = np.maximum(np.cumsum(~nulls) - 1, 0)
    return column[nearest] if isinstance(column, np.ndarray) else [column[at] for at in nearest]
