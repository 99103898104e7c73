"""By how much an executor's outputs may deviate from those of the model's own graph, row by row while a job runs.

float32               as the gate has it: of the largest magnitude in the column, `RELATIVE`, or more where the own
                      graph itself is off by more; all else equal
a tolerance           the tolerance, in units of the column's spread over the rows compared, of the value itself, or
                      of a tenth of the largest one, whichever is most; all else equal
an agreement          a share of rows is no matter of single rows: the places of NaN and infinity alone

The places of NaN and of each infinity must always be the same. A column's magnitude is that of the rows compared, or
what its outputs have reached before if that is more, and at least a tenth of the largest column's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np

from tasks.models.finite import is_float
from worker_config.errors import ModelError

Array: TypeAlias = np.ndarray[Any, Any]

# float32 has 2**-23 = 1.2e-7 of a number. Another order of summing adds up to some 1e-5 over a deep network (measured:
# 4e-6 for products over 4096 values, 1e-5 for 50 convolutions). A wrong result, such as a layer with other padding,
# is off by 1e-2 of the spread and more.
RELATIVE = 1e-4  # of the largest magnitude in the column
COLUMN_FLOOR = 0.1  # a column counts as at least so much of the largest one


@dataclass(frozen=True)
class Allowed:
    """What an executor is held to.

    Attributes:
        exact: of a float32 executor without a tolerance.
        tolerance: else; 0 where only an agreement is asked for.
        apart: of an exact one, in units of the largest magnitude in the column.
    """

    exact: bool = True
    tolerance: float = 0.0
    apart: float = RELATIVE


def deviation(
    reference: Mapping[str, Array], outputs: Mapping[str, Array], allowed: Allowed, reached: Mapping[str, Array]
) -> tuple[int, str] | None:
    """The first row that deviates, and what of it, for people; None where none does.

    `reached` is the largest magnitude of each column so far, where that is known.

    Raises:
        ModelError: the outputs are not of one form.
    """
    for name, wanted in reference.items():
        got = outputs.get(name)
        if got is None or got.shape != wanted.shape or got.dtype != wanted.dtype:
            raise ModelError(f"output {name} of the executor is not of the form that the own graph gives")
        if not wanted.size:
            continue
        wrong = _wrong(wanted, got, allowed, reached.get(name))
        if wrong is None or not wrong.any():
            continue
        row = int(np.flatnonzero(wrong.reshape(len(wrong), -1).any(axis=1))[0])
        place = np.unravel_index(int(np.flatnonzero(wrong[row])[0]), wanted.shape[1:]) if wanted.ndim > 1 else ()
        index = f"[{', '.join(map(str, place))}]" if place else ""
        return row, f"output {name}{index} is {_shown(got[row][place])} instead of {_shown(wanted[row][place])}"
    return None


def _wrong(wanted: Array, got: Array, allowed: Allowed, reached: Array | None) -> Array | None:
    """A mask of the values that deviate by more than they may."""
    if not is_float(wanted):
        return np.asarray(wanted != got) if allowed.exact or allowed.tolerance else None
    if wanted.dtype.kind == "c":
        parts = [_wrong(w, g, allowed, None) for w, g in ((wanted.real, got.real), (wanted.imag, got.imag))]
        return np.asarray(np.logical_or.reduce([part for part in parts if part is not None]))
    least = max(allowed.apart, 4 * float(ml_dtypes.finfo(wanted.dtype).eps))  # type: ignore[no-untyped-call]
    wanted, got = wanted.astype(np.float64), got.astype(np.float64)
    finite = np.isfinite(wanted)
    with np.errstate(invalid="ignore"):
        wrong = ~((wanted == got) | (np.isnan(wanted) & np.isnan(got)) | (finite & np.isfinite(got)))
        if not (allowed.exact or allowed.tolerance):
            return np.asarray(wrong)
        sure = np.where(finite, wanted, 0.0)
        columns = sure.reshape(len(sure), -1) if sure.ndim < 2 else sure.reshape(-1, sure.shape[-1])
        if allowed.exact:
            size = np.abs(columns).max(axis=0)
            if reached is not None and reached.shape == size.shape:
                size = np.maximum(size, reached)
            bound = least * np.maximum(size, COLUMN_FLOOR * size.max(initial=0.0))
        else:
            # A few rows may have no spread to speak of.
            spread = np.maximum(columns.std(axis=0), COLUMN_FLOOR * np.abs(columns).max(initial=0.0))
            bound = allowed.tolerance * np.maximum(spread, np.abs(sure))
        return np.asarray(wrong | (finite & (np.abs(got - wanted) > bound)))


def _shown(value: Any) -> str:
    return f"{float(value):.6g}" if isinstance(value, np.floating) else str(value)
