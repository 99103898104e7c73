"""Decides which rows of a chunk run together when children died with it: fewer and fewer.

first delivery    the whole chunk
second            blocks of a batch's rows, each noted before it runs
later ones        the rows that were noted when the child died, in pieces, then one by one; the others in blocks

Only a death that somebody has seen tells anything: a note without one may be of a run that goes on elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import msgspec

from tasks.protocol.messages import Count, FailureRecord
from worker_config.retry_policy import MAX_DEATHS, MAX_DEATHS_PER_ROW

# Fewer rows are run one by one without a step between: the batch that each of them costs is cheaper than a child.
FEW_ROWS = 16


class RunIntent(msgspec.Struct, frozen=True):
    """What a child is about to run: rows `[start, stop)`; those up to `until` are next, in pieces as small.

    `since` is the system's monotonic clock.
    """

    worker: str
    pid: int
    start: Count
    stop: Count
    until: Count
    since: float


class ChildDeath(msgspec.Struct, frozen=True):
    """What became of a child, as its main process saw it at `at` (the monotonic clock).

    `type` is empty where the child was stopped for no fault of its rows; `limit_seconds` is the time that it had, where
    it was stopped for taking longer.
    """

    worker: str
    pid: int
    type: str
    text: str
    at: float = 0.0
    limit_seconds: float = 0.0


@dataclass(frozen=True)
class PoisonRows:
    """Rows among which is one that kills, and how many of them are to be run together."""

    start: int
    stop: int
    together: int


@dataclass(frozen=True)
class RowRange:
    """Rows that are run together; see `RunIntent`."""

    start: int
    stop: int
    until: int


def judge(note: RunIntent, death: ChildDeath, batch_rows: int) -> tuple[PoisonRows | None, FailureRecord | None]:
    """What a death tells of the rows that were noted: those that are suspect, and the one that is condemned."""
    if (note.worker, note.pid) != (death.worker, death.pid) or not death.type:
        return None, None
    if note.stop - note.start > 1:
        return PoisonRows(note.start, note.stop, _smaller(note.stop - note.start, batch_rows)), None
    if death.limit_seconds and death.at - note.since < death.limit_seconds / 2:
        # The time went into the rows before it, which are innocent.
        return PoisonRows(note.start, note.until, 1), None
    condemned = FailureRecord(note.start, note.stop, "worker", death.type, death.text)
    return (PoisonRows(note.stop, note.until, 1) if note.until > note.stop else None), condemned


def is_hopeless(deaths: int, condemned: int) -> bool:
    """Whether so many children died that the rows that kill will not be found."""
    return deaths > MAX_DEATHS + MAX_DEATHS_PER_ROW * condemned


def steps(
    start: int, stop: int, batch_rows: int, poison_rows: PoisonRows | None, left_out: Collection[int]
) -> list[RowRange]:
    """The rows `[start, stop)` in order, without those that are left out."""
    if start == stop:
        return [RowRange(start, stop, stop)]
    if poison_rows is None:
        poison_rows = PoisonRows(stop, stop, 1)
    found = [
        *_cut(start, poison_rows.start, batch_rows, left_out),
        *_cut(poison_rows.start, poison_rows.stop, poison_rows.together, left_out),
        *_cut(poison_rows.stop, stop, batch_rows, left_out),
    ]
    inside = range(poison_rows.start, poison_rows.stop)
    return [RowRange(first, last, poison_rows.stop if first in inside else last) for first, last in found]


def _cut(start: int, stop: int, size: int, left_out: Collection[int]) -> Iterator[tuple[int, int]]:
    at = start
    for bound in [*sorted(row for row in left_out if start <= row < stop), stop]:
        yield from ((first, min(first + size, bound)) for first in range(at, bound, size))
        at = bound + 1


def _smaller(rows: int, batch_rows: int) -> int:
    sizes = [batch_rows, math.isqrt(batch_rows - 1) + 1, 1] if batch_rows > FEW_ROWS else [batch_rows, 1]
    return next(size for size in sizes if size < rows)
