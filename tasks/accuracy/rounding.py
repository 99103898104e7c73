"""How far outputs are from those in float64, and how far an executor's may be: no farther than the own graph's are.

float64's outputs, the own graph's --errors--> Errors: at the worst place, on average --bounds--> Bound of each output
an executor's outputs --errors--within Bound?--> too_far: why not

An error's unit is the size of its column (the last axis): the largest magnitude in it, at least a tenth of the largest
column's. Where there are no outputs in float64, what counts is the distance from the own graph, `RELATIVE`, and by how
much the own graph itself was seen to vary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from tasks.accuracy.deviations import COLUMN_FLOOR, RELATIVE, Array
from tasks.models.finite import is_float

MOST = 1.5  # times the own graph's error
# Closer to float64 than this is right, however close the own graph is: another order of summing, or another polynomial
# for tanh, gives as much where the own graph has a tenth of it (measured: 3e-6, and 5e-7 on average, in TFLite).
# One layer whose weights are off by a thousandth gives 5e-4 and more.
LEAST, LEAST_MEAN = 1e-5, 2e-6
# Of rounding: what a few rows may have at the worst place, though their largest happens to be less.
LARGEST_OF_MEAN = 4.0
# Beyond it, it is another function and no rounding.
COARSE = 1e-2
# Times the median row: what a row has that goes another way, as by a threshold, where float64 is no measure.
ASTRAY = 1_000.0


@dataclass(frozen=True)
class Errors:
    """Of one output, in units of its columns' sizes: at the worst place, and the root of the mean square."""

    worst: float = 0.0
    mean: float = 0.0


@dataclass(frozen=True)
class Bound:
    """What one output of an executor is held to; of what is no float it says nothing.

    Attributes:
        truth: the output in float64, for the first rows; None where that is not known.
        allowed: the most that an executor may be off from it.
        apart: the most that it may be off from the own graph's, on all rows, in the same unit.
    """

    truth: Array | None = None
    allowed: Errors = Errors()
    apart: float = RELATIVE


def bounds(reference: Sequence[Array], truth: Sequence[Array], noise: Sequence[float]) -> list[Bound]:
    """What each output is held to.

    Args:
        reference: the own graph's outputs, rows first.
        truth: those in float64, for as many rows or the first of them; empty where they are not known.
        noise: by output, how far the own graph is from itself in other batches; empty where that is not known.
    """
    found = []
    for number, output in enumerate(reference):
        varies = noise[number] if noise else 0.0
        if not truth or not is_float(output):
            found.append(Bound(apart=RELATIVE + varies))
            continue
        own, eps = errors(truth[number], output), _eps(output)
        worst = max(LEAST, 4 * eps, MOST * max(own.worst, varies, LARGEST_OF_MEAN * own.mean))
        # Of few rows, an average is uncertain itself.
        mean = max(LEAST_MEAN, eps, MOST * own.mean * (1 + 1 / math.sqrt(len(truth[number]))))
        found.append(Bound(truth[number], Errors(worst, mean), max(RELATIVE, own.worst + worst)))
    return found


def no_measure(reference: Sequence[Array], truth: Sequence[Array]) -> str:
    """Why outputs in float64 are not those of the same model; empty where they are."""
    for number, (wanted, exact) in enumerate(zip(reference, truth, strict=True)):
        if exact.shape[1:] != wanted.shape[1:]:
            return f"in float64 output {number} has the shape {exact.shape[1:]} instead of {wanted.shape[1:]}"
        if not is_float(wanted) or not exact.size:
            continue
        if not np.isfinite(in_float64(exact)).all():
            return f"in float64 output {number} is not finite"
        by_row = _by_row(_apart(exact, wanted[: len(exact)]))
        if (worst := float(by_row.max())) > COARSE:
            return f"in float64 output {number} is another one, by {worst:.2g} of its size"
        if worst > max(RELATIVE, ASTRAY * float(np.median(by_row))):
            return f"in float64 some rows of output {number} go another way, by {worst:.2g} of its size"
    return ""


def errors(truth: Array, output: Array) -> Errors:
    """Of the first rows, as many as the truth has."""
    apart = _apart(truth, output[: len(truth)])
    return Errors(float(apart.max(initial=0.0)), float(np.sqrt(np.mean(apart**2)))) if apart.size else Errors()


def too_far(bound: Bound, output: Array) -> str:
    """How much farther than it may an output is from float64; empty where it is not, or where that is not known."""
    if bound.truth is None:
        return ""
    found = errors(bound.truth, output)
    for how, error, most in (("", found.worst, bound.allowed.worst), (" on average", found.mean, bound.allowed.mean)):
        if not error <= most:
            return (
                f"deviates by {error:.2g} of its size{how} from float64, {most:.2g} is allowed by the own graph's error"
            )
    return ""


def rows_no_farther(truth: Array, wanted: Array, got: Array, *, by_column: bool) -> Array:
    """A mask of the rows in which one output is as close to float64 as the own graph's, in the rows' own error.

    Where the own graph is not finite the executor must be like it, and not like float64, which holds larger numbers.
    """
    is_asked, is_known = (np.isfinite(in_float64(array)) for array in (wanted, truth))
    unit = floored(over_rows(np.max, np.abs(numbers(truth)))) if by_column else 1.0
    own, other = (
        _by_row(np.where(is_asked, np.abs(numbers(one) - numbers(truth)) / unit, 0.0)) for one in (wanted, got)
    )
    return np.asarray((other <= MOST * own) & (_by_row(is_asked & ~is_known) == 0))


def apart_by_size(wanted: Array, got: Array) -> float:
    """The largest distance of outputs from others, in units of the columns' sizes."""
    return float(_apart(wanted, got).max(initial=0.0))


def _apart(truth: Array, output: Array) -> Array:
    exact = numbers(truth)
    return np.asarray(np.abs(numbers(output) - exact) / floored(over_rows(np.max, np.abs(exact))))


def _by_row(values: Array) -> Array:
    return np.asarray(values.reshape(len(values), -1).max(axis=1, initial=0))


def _eps(array: Array) -> float:
    return float(ml_dtypes.finfo(array.real.dtype).eps)  # type: ignore[no-untyped-call]


def over_rows(reduce: Any, values: Array) -> Array:
    """By column of the last axis; one column where there is no such axis."""
    columns = values.reshape(len(values), -1) if values.ndim < 2 else values.reshape(-1, values.shape[-1])
    return np.asarray(reduce(columns, axis=0))


def floored(columns: Array, whole: float | None = None) -> Array:
    """The columns' units, each at least a tenth of the largest one, or of that of the whole."""
    floor = COLUMN_FLOOR * (columns.max() if whole is None else whole)
    return np.maximum(columns, floor or np.finfo(np.float64).tiny)


def numbers(array: Array) -> Array:
    """In float64, with 0 in the place of what is not finite, which is looked at for itself."""
    found = in_float64(array)
    return found if np.isfinite(found).all() else np.where(np.isfinite(found), found, 0.0)


def in_float64(array: Array) -> Array:
    """The numbers; of complex ones both parts, on a new last axis."""
    if array.dtype.kind == "c":
        array = np.stack([array.real, array.imag], axis=-1)
    return np.asarray(array.astype(np.float64))
