"""How many rows keep their class when a lower precision runs the model, over all and by the reference's classes.

reference, outputs --> agreements --> Agreement: the least share over the outputs, and each class's own
Agreement --> told, too_few --> what people are told

The class of a row, or of a place in it, is its largest column, or the value itself of what is no float.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tasks.models.finite import is_float
from tasks.snapshots.record import ClassAgreement

# A vocabulary has more: of those the ones that agree least.
MOST_CLASSES = 1_000
# A share of fewer rows says little, whatever is asked for.
LEAST_ROWS_OF_CLASS = 30

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Agreement:
    """How far outputs agree with the reference's.

    Attributes:
        share: the least, over the outputs, of rows with the same class; None where no output has classes.
        classes: by output, then the class that agrees least first; those that no row has at the end.
    """

    share: float | None = None
    classes: list[ClassAgreement] = field(default_factory=list)


def agreements(reference: Sequence[Array], outputs: Sequence[Array], *, by_class: bool = True) -> Agreement:
    """Hold the classes of the outputs against the reference's, rows first, of the same form."""
    shares: list[float] = []
    classes: list[ClassAgreement] = []
    for number, (wanted, got) in enumerate(zip(reference, outputs, strict=True)):
        columns = 0
        if is_float(wanted):
            if wanted.ndim < 2 or wanted.shape[-1] < 2 or wanted.dtype.kind == "c":
                continue
            columns = wanted.shape[-1]
            wanted, got = wanted.argmax(axis=-1), got.argmax(axis=-1)
        if all(np.array_equal(wanted[0], row) for row in wanted[1:]):
            continue  # whatever gives always the same would agree
        same = wanted == got
        shares.append(float(np.mean(same)))
        if by_class:
            classes += _of_classes(number, wanted.ravel(), np.asarray(same).ravel(), columns)
    return Agreement(min(shares, default=None), classes)


def _of_classes(output: int, wanted: Array, same: Array, columns: int) -> list[ClassAgreement]:
    values, places, counts = np.unique(wanted, return_inverse=True, return_counts=True)
    kept = np.bincount(places, weights=same, minlength=len(values)) / counts
    names = [value.decode(errors="replace") if isinstance(value, bytes) else str(value) for value in values]
    found = [
        ClassAgreement(output, name, int(count), float(share))
        for name, count, share in zip(names, counts, kept, strict=True)
    ]
    found.sort(key=lambda one: (one.agreement, one.rows))
    if columns <= MOST_CLASSES:
        seen = set(values.tolist())
        found += [ClassAgreement(output, str(column), 0) for column in range(columns) if column not in seen]
    return found[:MOST_CLASSES]


def percent(share: float, digits: int = 2) -> str:
    """A share for people, never rounded up to the whole."""
    return f"{math.floor(round(share * 10 ** (digits + 2), 6)) / 10**digits:.{digits}f} %"


def agreement_text(share: float, classes: Sequence[ClassAgreement], rows: int) -> str:
    """What a share of `rows` and its classes say, for people."""
    least = _worst(classes)
    return f"the same largest output for {percent(share)} of {rows:,} rows" + (f" ({least})" if least else "")


def _worst(classes: Sequence[ClassAgreement]) -> str:
    """The class that agrees least, with its rows; empty where all agree alike."""
    seen = [one for one in classes if one.agreement is not None]
    least = min(seen, key=lambda one: (one.agreement, one.rows), default=None)
    if least is None or least.agreement is None or all(one.agreement == least.agreement for one in seen):
        return ""
    return f"least of class {_place(least, classes)}: {percent(least.agreement)} of {least.rows:,}"


def rows_needed(agreement: float) -> int:
    """Rows that a class must have: of fewer, a single one that changes is more than the share that may."""
    return max(LEAST_ROWS_OF_CLASS, math.ceil(round(1 / (1 - agreement), 6)) if agreement < 1 else 0)


def too_few(classes: Sequence[ClassAgreement], agreement: float) -> str:
    """Which classes have too few rows to be judged by; empty where none has."""
    needed = rows_needed(agreement)
    few = sorted((one for one in classes if one.rows < needed), key=lambda one: one.rows)
    if not few:
        return ""
    have = "has" if len(few) == 1 else "have"
    return (
        f"{len(few):,} of {len(classes):,} classes {have} too few rows to be judged at an agreement of "
        f"{100 * agreement:g} %, which takes {needed:,}: class {_place(few[0], classes)} has {few[0].rows:,}"
    )


def _place(one: ClassAgreement, classes: Sequence[ClassAgreement]) -> str:
    several = len({other.output for other in classes}) > 1
    return f"{one.name} of output {one.output}" if several else one.name
