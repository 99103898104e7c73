"""Whether an executor's outputs equal those of the model's own graph on one group of rows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.operations.case import LEAST, Owner
from benchmarks.operations.seen import Found
from benchmarks.operations.sweep_rows import Group
from tasks.executors import EXECUTORS
from tasks.models.finite import magnitude

# Whose weights a lower precision rounds.
PRODUCTS = re.compile(r"MatMul|Conv|Einsum|Gather")
Array = np.ndarray[Any, Any]

# Of the row's largest finite magnitude.
RELATIVE = 1e-5
ROUNDED = 1e-4  # where sums of many numbers are rounded on the way
ROUNDING, MODERATE = 2.0**-22, 1e3  # of the numbers that go in, as long as they are no larger
# Of products in a lower precision, and only of rows whose sums do not cancel.
GROSS = 0.25
GENTLE = frozenset(("normal", "[0, 1)", "zeros", "ones", "-1", "0.5", "7", "one-hot"))


def difference(wanted: Array, got: Array, relative: float = RELATIVE, least: float = LEAST) -> str:
    """How they differ, one line; empty where they are equal.

    Args:
        wanted: what the model's own graph gives, rows first.
        got: what the executor gives.
        least: what is smaller counts as 0.
        relative: the largest error of a float; 0 asks for the places of NaN and infinities alone.
    """
    if wanted.shape != got.shape or wanted.dtype != got.dtype:
        return f"{got.dtype}{list(got.shape)} instead of {wanted.dtype}{list(wanted.shape)}"
    if not wanted.size:
        return ""
    if wanted.dtype.kind == "c":
        wanted, got = (np.stack([array.real, array.imag], -1) for array in (wanted, got))
    if wanted.dtype.kind not in "fV":
        unequal = wanted != got
        return _first(wanted, got, unequal) if unequal.any() else ""
    exact, found = wanted.astype(np.float64), got.astype(np.float64)
    # Equal infinities, and NaN at the same places, are right.
    same = (exact == found) | (np.isnan(exact) & np.isnan(found))
    both = np.isfinite(exact) & np.isfinite(found)
    if relative:
        rows = np.where(np.isfinite(exact), np.abs(exact), 0).reshape(len(exact) if exact.ndim else 1, -1)
        largest = rows.max(axis=1, initial=0).reshape(-1, *([1] * (exact.ndim - 1))) if exact.ndim else rows.max()
        with np.errstate(invalid="ignore"):
            same |= both & (np.abs(exact - found) <= np.maximum(_tolerance(wanted, relative) * largest, least))
    else:
        same |= both
    return "" if same.all() else _first(wanted, got, ~same)


def _tolerance(array: Array, relative: float) -> float:
    return max(relative, 2e-3 if array.dtype == np.float16 else 1.6e-2 if array.dtype.kind == "V" else 0.0)


def _first(wanted: Array, got: Array, unequal: Array) -> str:
    place = tuple(int(number[0]) for number in np.nonzero(unequal)) if wanted.ndim else ()
    value, other = wanted[place], got[place]
    return f"{_text(other)} instead of {_text(value)}"


def _text(value: Any) -> str:
    if isinstance(value, bool | np.bool_ | np.integer):
        return str(value)
    return f"{value:.6g}" if isinstance(value, np.floating) else str(value)


def first_difference(wanted: Sequence[Array], got: Sequence[Array], relative: float, least: float) -> str:
    """The same of several outputs."""
    return next((found for pair in zip(wanted, got, strict=True) if (found := difference(*pair, relative, least))), "")


def differences(
    name: str,
    keys: Sequence[str],
    number: int,
    owners: Sequence[Owner],
    groups: Sequence[Group],
    reference: Sequence[Any],
    outputs: Sequence[Any],
    relative: float,
) -> list[Found]:
    """For each place and group."""
    is_rounded = EXECUTORS[name].precision != "float32"
    has_products = any(PRODUCTS.search(key) for key in keys)
    found = []
    for group, wanted, got in zip(groups, reference, outputs, strict=True):
        lost = isinstance(wanted, str)
        # What comes of several operations may be a small difference of larger numbers, each rounded: x - tanh(x), or
        # GELU by 1 + erf.
        size = max(map(magnitude, group.rows))
        rounding = ROUNDING * size if len(keys) > 1 and size <= MODERATE else 0.0
        for place in range(max(place for _, place in owners) + 1):
            if lost or isinstance(got, str):
                what = "" if lost and isinstance(got, str) else "no error" if lost else f"error: {got}"
            else:
                pairs = [(wanted[n], got[n]) for n, owner in enumerate(owners) if owner == (number, place)]
                rounds = is_rounded and (place > 0 or has_products)
                asked = relative if not rounds else GROSS if group.label in GENTLE and place == 0 else 0.0
                # Behind a rounded sum, the bias of a product may cancel it.
                least = max(LEAST, rounding, 1e-6 if place == 2 and relative == ROUNDED else 0.0)
                what = _differs(pairs, asked, least, rounds)
            if what:
                found.append(Found(name, place, group.label, group.kind, what, lost))
    return found


def _differs(pairs: Sequence[Any], relative: float, least: float, rounds: bool) -> str:
    # Integers and booleans of rounded numbers may be others.
    pairs = [pair for pair in pairs if not rounds or pair[0].dtype.kind in "fcV"]
    return first_difference([pair[0] for pair in pairs], [pair[1] for pair in pairs], relative, least)
