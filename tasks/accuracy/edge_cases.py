"""Rows on which executors part: zeros, ties, large numbers, NaN; in groups by size, so that each can be judged alone.

    inputs, ordinary rows --> groups: floats small, close to 0, tiny, hundreds, large, largest, not finite; integers

In every group one kind of input is extraordinary and the others have ordinary rows, which the model is known to take.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes
import msgspec
import numpy as np

from tasks.models.finite import is_float
from tasks.models.program import FlatArrays
from tasks.protocol.records import TensorSpec

# Up to here an executor must agree, or it is not used: pixels, ages, degrees, prices.
ORDINARY = 1e3
# Times in seconds, identifiers.
LARGE = float(2**31)
# Closer to 0 than `tasks.models.finite.TINY`; their products have not all digits, and some executors take them for 0.
TINY = "tiny numbers"
# Where log(1 + x) and exp(x) - 1 lose their digits, if that is how they are computed.
CLOSE_TO_0 = "numbers close to 0"
_SEED = 20240301

# Numbers for a shape, which one dtype or another is to hold.
Make = Callable[[tuple[int, ...], np.random.Generator], np.ndarray[Any, Any]]


class EdgeCases(msgspec.Struct, frozen=True):
    """Rows of one size, and what the model makes of them.

    Attributes:
        label: of what size or kind.
        largest: the largest absolute value of its floats; infinite where some are not finite.
        rows: an array per input, rows first: those that the model takes.
        reference: an array per output for these rows; empty where it takes none.
        sizes: the largest absolute value of a float in each row, where each is to be judged in its own size.
        truth: the same as `reference` in float64; empty where that is not known.
        refused: an array per input: rows for which the model raises an error, and so must an executor.
    """

    label: str
    largest: float
    rows: FlatArrays = []
    reference: FlatArrays = []
    refused: FlatArrays = []
    sizes: FlatArrays = []
    truth: FlatArrays = []


def edge_cases(inputs: Sequence[TensorSpec], ordinary: FlatArrays, count: int) -> list[EdgeCases]:
    """Groups of rows for the inputs, without a reference yet.

    Of each input there are `count` `ordinary` rows or more; those kinds that find no place among `count` are left out.
    """
    groups = []
    for label, (largest, kinds) in _FLOATS.items():
        if any(is_float(array) and array.ndim for array in ordinary):
            rows = _replaced(ordinary, count, kinds, is_float)
            groups.append(EdgeCases(label, largest, rows, sizes=[_sizes(rows)] if label == CLOSE_TO_0 else []))
    for label, kinds in _INTEGERS.items():
        if any(array.dtype.kind in "iu" and array.ndim for array in ordinary):
            groups.append(
                EdgeCases(label, 0.0, _replaced(ordinary, count, kinds, lambda array: array.dtype.kind in "iu"))
            )
    return groups


def _sizes(rows: FlatArrays) -> np.ndarray[Any, Any]:
    """The largest absolute value of a float in each row."""
    floats = [array for array in rows if array.ndim and is_float(array)]
    numbers = [np.abs(array if array.dtype.kind == "c" else array.astype(np.float64)) for array in floats]
    return np.asarray(np.max([array.reshape(len(array), -1).max(axis=1, initial=0.0) for array in numbers], axis=0))


def _replaced(ordinary: FlatArrays, count: int, kinds: Sequence[Make], which: Callable[[Any], bool]) -> FlatArrays:
    random = np.random.default_rng(_SEED)
    some = [array[:count] if array.ndim else array for array in ordinary]
    return [_filled(array, kinds, random) if array.ndim and which(array) else array for array in some]


def _filled(array: np.ndarray[Any, Any], kinds: Sequence[Make], random: np.random.Generator) -> np.ndarray[Any, Any]:
    filled = np.empty_like(array)
    for number in range(len(array)):
        made = kinds[number % len(kinds)](array.shape[1:], random)
        filled[number] = _cast(made, array.dtype)
    return filled


def _cast(made: np.ndarray[Any, Any], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """In a dtype, whose largest number stands for what is larger."""
    if dtype.kind in "iu":
        low, high = max(np.iinfo(dtype).min, -(2**62)), min(np.iinfo(dtype).max, 2**62)
        return np.asarray(np.clip(made, low, high).astype(dtype))
    if dtype.kind == "c":
        return np.asarray(made.astype(dtype))
    most = float(ml_dtypes.finfo(dtype).max)  # type: ignore[no-untyped-call]
    return np.asarray(np.where(np.isfinite(made), np.clip(made, -most, most), made).astype(dtype))


def constant(value: float) -> Make:
    """The same number everywhere."""
    return lambda shape, random: np.full(shape, value)


def normal(scale: float) -> Make:
    """Numbers around 0."""
    return lambda shape, random: scale * random.standard_normal(shape)


def whole(low: int, high: int) -> Make:
    """Integers from `low` to below `high`."""
    return lambda shape, random: random.integers(low, high, shape)


def signs(value: float) -> Make:
    """A number with either sign."""
    return lambda shape, random: value * random.choice([-1.0, 1.0], shape)


def magnitudes(low: float, high: float) -> Make:
    """Numbers of all powers of ten between these."""
    return lambda shape, random: random.choice([-1.0, 1.0], shape) * 10.0 ** random.uniform(low, high, shape)


def _one(value: float, elsewhere: float | None = 0.0) -> Make:
    """One place with a value, the others with another, or with normal ones."""

    def make(shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray[Any, Any]:
        made = random.standard_normal(shape) if elsewhere is None else np.full(shape, elsewhere)
        made.reshape(-1)[random.integers(max(1, made.size)) :][:1] = value
        return made

    return make


def _ascending(last: float) -> Make:
    return lambda shape, random: np.linspace(0, last, int(np.prod(shape))).reshape(shape)


def _sparse(shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray[Any, Any]:
    return random.standard_normal(shape) * (random.random(shape) < 0.2)


_LEAST, _MOST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
_NAN, _INFINITY = float("nan"), float("inf")
_FLOATS: dict[str, tuple[float, list[Make]]] = {
    "small numbers": (7.0, [
        constant(0.0), normal(1.0), constant(1.0), _one(1.0), constant(-1.0), _sparse, constant(7.0),
        magnitudes(-6, 0.8), whole(-2, 3), _ascending(1.0), constant(-0.0), constant(0.5), constant(1e-7),
        constant(-7.0),
    ]),
    TINY: (0.0, [
        constant(_LEAST), constant(1e-40), _one(1e-40), signs(1e-42), _one(-1e-35, None), constant(1e-33),
    ]),
    "numbers in the hundreds": (ORDINARY, [
        whole(0, 256), constant(255.0), constant(ORDINARY), constant(-ORDINARY), _one(255.0), signs(ORDINARY),
        _ascending(255.0), normal(100.0), whole(-100, 101), constant(89.0),
    ]),
    "large numbers": (LARGE, [
        constant(1e9), signs(1e9), constant(-1e9), _one(1e9), _one(-1e9, None), normal(1e6), constant(1.7e9),
    ]),
    "the largest numbers": (_MOST, [
        constant(3e38), _one(3e38), signs(3e38), normal(1e30), constant(-3e38), _one(-3e38, None),
    ]),
    "NaN and infinity": (_INFINITY, [
        _one(_NAN, None), _one(_INFINITY, None), _one(-_INFINITY, None), constant(_NAN), normal(1.0),
        constant(_INFINITY), constant(-_INFINITY), signs(_INFINITY),
    ]),
}  # fmt: skip
_INTEGERS: dict[str, list[Make]] = {
    "small integers": [
        constant(0), constant(1), whole(0, 2), _ascending(9), whole(0, 10), constant(3), whole(0, 256),
    ],
    "integers out of range": [constant(-1), _one(-1), constant(2**62), constant(-(2**62)), _one(10**6)],
}  # fmt: skip
