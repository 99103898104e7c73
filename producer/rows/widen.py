"""A part with outputs of bfloat16, int4 and the like --> the same values in dtypes that files can hold."""

from __future__ import annotations

from dataclasses import replace

from producer.rows.part import Part, flatten, unflatten
from tasks.outputs.widen import widened


def widened_part(part: Part) -> Part:
    """The part with such dtypes alone; itself where it has no others."""
    arrays = flatten(part)
    if all(array.dtype.isbuiltin != 2 for array in arrays.values()):
        return part
    filled = part.failed_mask if part.failed and not part.skipped else None
    return replace(part, outputs=unflatten({key: widened(array, filled) for key, array in arrays.items()}))
