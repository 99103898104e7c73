"""How far an executor can be trusted: up to which size of numbers it gave what the model gives for edge cases.

    groups of edge cases --model--> reference, or refused  --executor--> why it is not used, or a limit for its rows

Rows beyond the limit go to the model's own graph, each for itself (`tasks/executors/guarded.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
import numpy as np

from tasks.executors.batched import in_batches
from tasks.models.program import FlatCall
from tasks.preparation.accuracy_gate import differs
from tasks.preparation.calibration_rows import Arrays
from tasks.preparation.edge_cases import LARGE, ORDINARY, TINY, EdgeCases

# Of float64, which every float that a model takes fits into: rows that are not finite are beyond it.
FINITE = float(np.finfo(np.float64).max)


class Trust(msgspec.Struct, frozen=True):
    """What an executor may be given.

    Attributes:
        why: why it is not used at all; empty where it is.
        limit: the largest absolute value of a float up to which it agrees with the model; rows beyond, and those that
            are not finite, are not for it. None where it agrees on all rows.
        tiny: whether rows with numbers very close to 0 are for it.
    """

    why: str = ""
    limit: float | None = None
    tiny: bool = True


def with_reference(groups: Sequence[EdgeCases], call: FlatCall, batch_rows: int) -> list[EdgeCases]:
    """The groups with what the model gives for their rows, and apart from them the rows that it refuses."""
    return [_referred(group, call, batch_rows) for group in groups]


def _referred(group: EdgeCases, call: FlatCall, batch_rows: int) -> EdgeCases:
    try:
        return msgspec.structs.replace(group, reference=in_batches(call, group.rows, batch_rows))
    except Exception:
        taken = [
            number for number in range(_count(group.rows)) if _is_taken(call, _rows(group.rows, [number]), batch_rows)
        ]
    refused = _rows(group.rows, [number for number in range(_count(group.rows)) if number not in taken])
    if not taken:
        return msgspec.structs.replace(group, rows=[], refused=refused)
    rows = _rows(group.rows, taken)
    reference = in_batches(call, rows, batch_rows)
    return msgspec.structs.replace(
        group, rows=rows, reference=reference, refused=refused, sizes=_rows(group.sizes, taken)
    )


def trust(groups: Sequence[EdgeCases], call: FlatCall, batch_rows: int, *, exact: bool, seen: float) -> Trust:
    """Run the groups, the smallest numbers first, up to the first on which the executor is not like the model.

    Args:
        groups: with their reference, in the order in which `edge_cases` gives them.
        call: the executor.
        batch_rows: rows in one call.
        exact: of a float32 executor; of another the places of NaN and infinity alone are compared.
        seen: the largest absolute value of the rows on which it was found to agree before.
    """
    limit: float | None = None
    tiny = True
    for group in groups:
        if limit is not None and group.largest > limit:
            continue  # larger ones are not for it either
        why = _differs(group, call, batch_rows, exact)
        if not why:
            continue
        if group.label == TINY:
            tiny = False
        elif group.largest <= max(ORDINARY, seen):
            return Trust(f"for rows of {group.label}, {why}")
        else:
            limit = max(ORDINARY, seen, *(one.largest for one in groups if one.largest < group.largest))
    if not exact:  # its numbers were compared on the user's own rows alone
        limit = min(FINITE if limit is None else limit, max(ORDINARY, seen))
    return Trust(limit=limit, tiny=tiny)


def capped(trusted: Trust, seen: float) -> Trust:
    """The same of an executor that is known, or thought, to agree on finite rows of moderate size alone."""
    most = max(LARGE, seen)
    return msgspec.structs.replace(trusted, limit=most if trusted.limit is None else min(trusted.limit, most))


def _differs(group: EdgeCases, call: FlatCall, batch_rows: int, exact: bool) -> str:
    if group.reference:
        try:
            outputs = in_batches(call, group.rows, batch_rows)
        except Exception as error:
            return f"it gives up ({type(error).__name__}), and the model does not"
        sizes = group.sizes[0] if group.sizes else None
        if why := differs(group.reference, outputs, exact=exact, sizes=sizes):
            return why
    for row in _each(group.refused):
        if _is_taken(call, row, batch_rows):
            return "it takes a row that the model refuses"
    return ""


def _is_taken(call: FlatCall, row: Arrays, batch_rows: int) -> bool:
    try:
        in_batches(call, row, batch_rows)
    except Exception:
        return False
    return True


def _each(rows: Arrays) -> Iterator[Arrays]:
    for number in range(_count(rows)):
        yield _rows(rows, [number])


def _count(rows: Arrays) -> int:
    return max((len(array) for array in rows if array.ndim), default=0)


def _rows(rows: Arrays, numbers: Sequence[int]) -> Arrays:
    return [array[list(numbers)] if array.ndim else array for array in rows]
