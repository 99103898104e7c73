"""Up to which size of numbers an executor gives what the model gives, by edge cases.

    groups of edge cases --model--> reference, or refused  --executor--> why it is not used, or an InputRange

Rows outside the range go to the model's own graph, each for itself (`tasks/executors/guarded.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from tasks.accuracy.accuracy_gate import differs
from tasks.accuracy.edge_cases import LARGE, ORDINARY, TINY, EdgeCases
from tasks.executors.guarded import InputRange
from tasks.models.batches import in_batches
from tasks.models.finite import EXACT, largest_integer, magnitude
from tasks.models.program import FlatArrays, FlatCall

# Of float64, which every float that a model takes fits into: rows that are not finite are beyond it.
FINITE = float(np.finfo(np.float64).max)


def with_reference(groups: Sequence[EdgeCases], call: FlatCall, batch_rows: int) -> list[EdgeCases]:
    """The groups with what the model gives for their rows, and apart from them the rows that it refuses."""
    return [_referred(group, call, batch_rows) for group in groups]


def _referred(group: EdgeCases, call: FlatCall, batch_rows: int) -> EdgeCases:
    try:
        return msgspec.structs.replace(group, reference=in_batches(call, group.rows, batch_rows))
    except Exception:
        count = max((len(array) for array in group.rows if array.ndim), default=0)
        is_taken = [_is_taken(call, _rows(group.rows, [number]), batch_rows) for number in range(count)]
    taken, refused = ([number for number in range(count) if is_taken[number] is one] for one in (True, False))
    group = msgspec.structs.replace(group, refused=_rows(group.rows, refused))
    if not taken:
        return msgspec.structs.replace(group, rows=[])
    rows = _rows(group.rows, taken)
    reference = in_batches(call, rows, batch_rows)
    return msgspec.structs.replace(group, rows=rows, reference=reference, sizes=_rows(group.sizes, taken))


def common_range(
    groups: Sequence[EdgeCases], call: FlatCall, batch_rows: int, *, exact: bool, seen: float
) -> tuple[str, InputRange]:
    """Run the groups, the smallest numbers first, up to the first on which the executor is not like the model.

    Of an executor that is not `exact`, the places of NaN and infinity alone are compared. On rows up to `seen`, their
    largest absolute value, it was found to agree before.

    Returns:
        Why it is not used at all, empty where it is; and the rows that it may be given.
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
            return f"for rows of {group.label}, {why}", InputRange()
        else:
            limit = max(ORDINARY, seen, *(one.largest for one in groups if one.largest < group.largest))
    if not exact:  # its numbers were compared on the user's own rows alone
        limit = min(FINITE if limit is None else limit, max(ORDINARY, seen))
    return "", InputRange(limit, tiny)


def capped(inputs: InputRange, seen: float) -> InputRange:
    """The same of an executor that is known, or thought, to agree on finite rows of moderate size alone."""
    most = max(LARGE, seen)
    return InputRange(most if inputs.limit is None else min(inputs.limit, most), inputs.tiny)


def within(inputs: InputRange, rows: FlatArrays) -> InputRange:
    """The same of an executor that cuts off numbers that are larger than in these rows."""
    floats, integers = max(map(magnitude, rows)), min(EXACT, max(map(largest_integer, rows)))
    return InputRange(floats if inputs.limit is None else min(inputs.limit, floats), inputs.tiny, integers)


def _differs(group: EdgeCases, call: FlatCall, batch_rows: int, exact: bool) -> str:
    if group.reference:
        try:
            outputs = in_batches(call, group.rows, batch_rows)
        except Exception as error:
            return f"it gives up ({type(error).__name__}), and the model does not"
        sizes = group.sizes[0] if group.sizes else None
        if why := differs(group.reference, outputs, exact=exact, sizes=sizes, truth=group.truth):
            return why
    count = max((len(array) for array in group.refused if array.ndim), default=0)
    if any(_is_taken(call, _rows(group.refused, [number]), batch_rows) for number in range(count)):
        return "it takes a row that the model refuses"
    return ""


def _is_taken(call: FlatCall, row: FlatArrays, batch_rows: int) -> bool:
    try:
        in_batches(call, row, batch_rows)
    except Exception:
        return False
    return True


def _rows(rows: FlatArrays, numbers: Sequence[int]) -> FlatArrays:
    return [array[list(numbers)] if array.ndim else array for array in rows]
