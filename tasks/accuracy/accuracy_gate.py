"""An executor's outputs against the model's own, and against the model in float64: are they right?

    reference --> tells_apart: would a wrong executor be noticed at all?
    reference, bounds, outputs --> compare --> Comparison: agrees, largest errors, share of rows of the same class
    the same of rows that hurt --> differs: of size, or in the places of NaN and infinity

Right is what is as close to float64 as the model's own graph is (`tasks/accuracy/rounding.py`), which rounds, too:
right executors of a deep network part by more than wrong ones of a shallow one may. Where the model in float64 is not
known, the own graph is the measure. A lower precision is always held against the own graph.

An output's unit is its spread: how far rows lie from their mean. A network that gives every row the same agrees with
any other that does, so such a reference proves nothing. Columns (the last axis) may be of different kinds, boxes beside
scores: each has its own spread, but at least a tenth of the whole output's, because a column that hardly moves, the
class that never wins, has no error worth measuring in its own unit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np

from tasks.accuracy.class_agreement import Agreement, agreement_text, agreements
from tasks.accuracy.rounding import Bound, floored, in_float64, numbers, over_rows, rows_no_farther, too_far
from tasks.models.finite import is_float
from tasks.snapshots.record import ClassAgreement

OF_SPREAD = 1e-2
LEAST_SPREAD = 1e-4  # of the magnitude: below it, rounding of 1e-6 would be over `OF_SPREAD`
# Of rows that hurt, whose outputs need not tell rows apart: what is sought there is gross.
OF_SIZE = 1e-3
ROUNDED_AWAY = 1e-3

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Comparison:
    """What became of a comparison.

    Attributes:
        agrees: whether the outputs are the same within what is asked.
        error: the largest deviation from the own graph, in units of the spread; infinite where it has no measure.
        agreement: the least share, over the outputs, of rows with the same largest value; None where it means nothing.
        why: why not, one line; empty where they agree.
        classes: where not exact: the same share by class.
        true_error: the largest deviation from float64, in the same units; None where that is not known.
        own_error: the same of the own graph.
    """

    agrees: bool
    error: float = 0.0
    agreement: float | None = None
    why: str = ""
    classes: list[ClassAgreement] = field(default_factory=list)
    true_error: float | None = None
    own_error: float | None = None


def tells_apart(reference: Sequence[Array]) -> str:
    """Why these outputs, rows first, could not show a wrong executor; empty if they could."""
    moving = 0
    for number, array in enumerate(reference):
        name = _name(number, reference)
        if not array.ndim or len(array) < 2:
            return f"{name} has no rows to compare"
        if not is_float(array):
            moving += any(not np.array_equal(array[0], row) for row in array[1:])
            continue
        values = numbers(array)
        if not values.size:
            return f"{name} has no values"
        if not np.isfinite(in_float64(array)).all():
            return f"{name} is not finite"
        magnitude = np.abs(values).max()
        spread = _spread(values)
        if spread == 0:
            return f"{name} is the same for all rows, as of a model that is not trained"
        if spread < _least_spread(array) * magnitude:
            return f"{name} differs between rows by {spread / magnitude:.0e} of its size, no more than rounding does"
        moving += 1
    return "" if moving else "the outputs are the same for all rows"


def compare(
    reference: Sequence[Array],
    outputs: Sequence[Array],
    *,
    exact: bool = True,
    tolerance: float = 0.0,
    agreement: float = 0.0,
    bounds: Sequence[Bound] = (),
) -> Comparison:
    """Hold outputs against the reference, which `tells_apart`.

    Args:
        exact: of a float32 executor: floats within rounding, or the tolerance if there is one; anything else equal.
        tolerance: the largest error, in units of the spread; 0 does not ask.
        agreement: of a lower precision: the least share of rows with the same largest value, of every output with
            several columns, and with the same value of outputs that are no floats; 0 does not ask.
        bounds: what rounding of each output is held to; none are those of the own graph alone.
    """
    refused = _other_form(reference, outputs)
    if refused:
        return Comparison(False, float("inf"), None, refused)
    error = max((_error(r, o) for r, o in zip(reference, outputs, strict=True) if is_float(r)), default=0.0)
    kept = agreements(reference, outputs, by_class=not exact)
    if exact and not tolerance:
        why = _no_rounding(reference, outputs, bounds or [Bound()] * len(reference))
    else:
        why = _not_close(reference, outputs, error, kept, tolerance, 0.0 if exact else agreement)
    true, own = (_true_error(reference, one, bounds) for one in (outputs, reference))
    return Comparison(not why, error, kept.share, why, kept.classes, true, own)


def differs(
    reference: Sequence[Array],
    outputs: Sequence[Array],
    *,
    exact: bool = True,
    sizes: Array | None = None,
    truth: Sequence[Array] = (),
) -> str:
    """How outputs differ from those of the model for rows that need not tell anything apart; empty if they do not.

    Args:
        exact: of a float32 executor: finite numbers too; else the places of NaN and infinity alone.
        sizes: of the rows that went in, where each is judged by itself: by its largest output, or, as that may be what
            rounding leaves of larger numbers, `ROUNDED_AWAY` of its size.
        truth: the same in float64, where that is known: a row in which the own graph is no closer to it may differ.
    """
    if why := _other_form(reference, outputs):
        return why
    if not exact:
        return ""
    for number, exactly in enumerate(truth):
        wanted, got = reference[number], outputs[number]
        if is_float(wanted) and _of_size(wanted, got, sizes) > OF_SIZE:
            excused = rows_no_farther(exactly, wanted, got, by_column=sizes is None)
            got = np.where(excused.reshape(-1, *[1] * (got.ndim - 1)), wanted, got)
            outputs = [*outputs[:number], got, *outputs[number + 1 :]]
    return _too_far(reference, outputs, ("size", partial(_of_size, sizes=sizes), OF_SIZE))


def _other_form(reference: Sequence[Array], outputs: Sequence[Array]) -> str:
    if len(reference) != len(outputs):
        return f"{len(outputs)} outputs instead of {len(reference)}"
    for number, (wanted, got) in enumerate(zip(reference, outputs, strict=True)):
        name = _name(number, reference)
        if wanted.shape != got.shape or wanted.dtype != got.dtype:
            return f"{name} is {got.dtype} {got.shape} instead of {wanted.dtype} {wanted.shape}"
        if is_float(wanted) and (places := _other_places(in_float64(wanted), in_float64(got))):
            return f"{name} is not finite at other places than the model's, {places} of {wanted.size}"
    return ""


def _other_places(wanted: Array, got: Array) -> int:
    """At how many places one has a NaN or an infinity that the other has not."""
    if np.isfinite(wanted).all() and np.isfinite(got).all():
        return 0
    same = np.where(np.isfinite(wanted), np.isfinite(got), (wanted == got) | (np.isnan(wanted) & np.isnan(got)))
    return int(np.count_nonzero(~same))


def _too_far(
    reference: Sequence[Array], outputs: Sequence[Array], *bounds: tuple[str, Callable[[Array, Array], float], float]
) -> str:
    """The first output that is not equal, or as a float beyond a bound: the unit, the deviation in it, and the most."""
    for number, (wanted, got) in enumerate(zip(reference, outputs, strict=True)):
        name = _name(number, reference)
        if not is_float(wanted):
            if not np.array_equal(wanted, got):
                return f"{name} differs in {np.count_nonzero(wanted != got)} of {wanted.size} values"
            continue
        for unit, measure, most in bounds if wanted.size else ():
            if (deviation := measure(wanted, got)) > most:
                return f"{name} deviates by {deviation:.2g} of its {unit}, {most:g} is allowed"
    return ""


def _no_rounding(reference: Sequence[Array], outputs: Sequence[Array], bounds: Sequence[Bound]) -> str:
    """The first output that is not equal, or as a float farther from the own graph, or from float64, than it may be."""
    for number, (wanted, got, bound) in enumerate(zip(reference, outputs, bounds, strict=True)):
        if why := _too_far([wanted], [got], ("spread", _error, OF_SPREAD), ("size", _of_size, bound.apart)):
            return why.replace(_name(0, [wanted]), _name(number, reference), 1)
        if is_float(wanted) and (why := too_far(bound, got)):
            return f"{_name(number, reference)} {why}"
    return ""


def _not_close(
    reference: Sequence[Array],
    outputs: Sequence[Array],
    error: float,
    kept: Agreement,
    tolerance: float,
    agreement: float,
) -> str:
    if not tolerance and not agreement:
        return "neither a tolerance nor an agreement is given"
    rows = len(reference[0])
    if tolerance and not error <= tolerance:
        return f"deviates by {error:.2g} of the outputs' spread on {rows:,} rows, {tolerance:g} is allowed"
    if not agreement:
        pairs = zip(reference, outputs, strict=True)
        same = all(is_float(r) or np.array_equal(r, o) for r, o in pairs)
        return "" if same else "differs in outputs that are no floats; an agreement would allow it for some rows"
    if kept.share is None:
        return "no output has several columns whose largest one differs between rows: the agreement means nothing"
    if kept.share < agreement:
        return f"has {agreement_text(kept.share, kept.classes, rows)}, {100 * agreement:g} % are asked for"
    return ""


def _of_size(wanted: Array, got: Array, sizes: Array | None = None) -> float:
    """The largest deviation in units of the column's largest magnitude; of the row's, where sizes of rows are given."""
    values = numbers(wanted)
    if sizes is not None:
        largest = np.abs(values).reshape(len(values), -1).max(axis=1)
        apart = np.abs(numbers(got) - values).reshape(len(values), -1).max(axis=1)
        return float((apart / np.maximum(np.maximum(largest, ROUNDED_AWAY * sizes), np.finfo(np.float64).tiny)).max())
    return float((np.abs(numbers(got) - values) / floored(over_rows(np.max, np.abs(values)))).max())


def _error(wanted: Array, got: Array, exact: Array | None = None) -> float:
    """The largest deviation in units of the column's spread: from these outputs, or from others for the first rows."""
    values = numbers(wanted)
    deviations = (values - values.mean(axis=0)) ** 2
    spread = floored(np.sqrt(over_rows(np.mean, deviations)), _spread(values))
    found = values if exact is None else numbers(exact)
    return float((np.abs(numbers(got[: len(found)]) - found) / spread).max())


def _true_error(reference: Sequence[Array], outputs: Sequence[Array], bounds: Sequence[Bound]) -> float | None:
    """The largest deviation from float64, in units of the spread; None where that is not known."""
    found = zip(reference, outputs, bounds or [Bound()] * len(reference), strict=True)
    return max((_error(wanted, got, one.truth) for wanted, got, one in found if one.truth is not None), default=None)


def _spread(values: Array) -> float:
    """Root mean square of the distance from the mean row."""
    return float(np.sqrt(np.mean((values - values.mean(axis=0)) ** 2)))


def _least_spread(array: Array) -> float:
    if array.dtype.kind == "c":
        return LEAST_SPREAD
    return max(LEAST_SPREAD, 4 * float(ml_dtypes.finfo(array.dtype).eps))  # type: ignore[no-untyped-call]


def is_equal(wanted: Array, got: Array) -> bool:
    """Whether arrays are equal to the bit, but for what a NaN may be."""
    return np.array_equal(wanted, got, equal_nan=wanted.dtype.kind in "fc")


def _name(number: int, reference: Sequence[Array]) -> str:
    return f"output {number}" if len(reference) > 1 else "the output"
