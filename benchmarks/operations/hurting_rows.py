"""Rows on which runtimes differ where they do: zeros, ties, large and tiny numbers, infinities, indices out of range.

    TensorSpecs, a number of rows --> groups, each with a label, a kind and an array for each input

Most finite groups have few significant bits, so that sums of their products with small weights are exact in whatever
order: there a difference is one of the operation, never of rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tasks.protocol.records import TensorSpec
from tasks.protocol.signature import numpy_dtype

Array = np.ndarray[Any, Any]
Kind = Literal["finite", "extreme", "nonfinite"]
FREE_SIZE = 16  # of a dimension that the model leaves free
_SEED = 20240229
_BEHIND = 5
_NAN, _INFINITY = np.float32(np.nan), np.float32(np.inf)


@dataclass(frozen=True)
class Group:
    """Rows of one sort.

    Attributes:
        label: for people.
        kind: "finite": of moderate size; "extreme": the largest numbers, and those below the normal ones;
            "nonfinite": with NaN or infinities.
        is_exact: whether sums of small multiples of the numbers and of a bias are exact in float32.
        rows: an array for each input.
    """

    label: str
    kind: Kind
    is_exact: bool
    rows: list[Array]


def hurting_rows(specs: Sequence[TensorSpec], count: int) -> list[Group]:
    """Groups of `count` rows; none for inputs that are no numbers.

    Several inputs go through them in step, and once more with each input some groups behind the one before, so that
    a zero or a NaN meets ordinary numbers, too.
    """
    kinds = ["float" if numpy_dtype(spec.dtype).kind in "fcV" else numpy_dtype(spec.dtype).kind for spec in specs]
    if not specs or any(kind not in ("float", "i", "u", "b") for kind in kinds):
        return []
    makers: dict[str, list[tuple[str, Kind, bool, Callable[..., Any]]]]
    makers = {"float": _FLOATS, "i": _INTEGERS, "u": _INTEGERS, "b": _BOOLS}
    groups = []
    rounds = max(len(makers[kind]) for kind in kinds)
    for number in range(rounds * min(2, len(specs))):
        behind = _BEHIND if number >= rounds else 0
        chosen = [makers[kind][(number + place * behind) % len(makers[kind])] for place, kind in enumerate(kinds)]
        random = np.random.default_rng(_SEED + number)
        with np.errstate(over="ignore", invalid="ignore"):
            rows = [_made(spec, count, make[3], random) for spec, make in zip(specs, chosen, strict=True)]
        order: tuple[Kind, ...] = ("finite", "extreme", "nonfinite")
        kind = max((make[1] for make in chosen), key=order.index)
        label = " and ".join(dict.fromkeys(make[0] for make in chosen))
        groups.append(Group(label, kind, all(make[2] for make in chosen), rows))
    return groups


def _made(spec: TensorSpec, count: int, make: Callable[..., Any], random: np.random.Generator) -> Array:
    dtype = numpy_dtype(spec.dtype)
    sizes = tuple(size or FREE_SIZE for size in spec.shape[1:])
    if not spec.shape:
        return np.ones((), dtype)
    values = np.asarray(make(random, (count, int(np.prod(sizes, dtype=np.int64))), dtype))
    if dtype.kind in "iu" and values.dtype.kind == "f":
        raise TypeError(f"{values.dtype} for {dtype}")
    if dtype.kind in "iu":
        values = np.clip(values, np.iinfo(dtype).min, np.iinfo(dtype).max)
    return np.ascontiguousarray(values.astype(dtype).reshape(count, *sizes))


def _sprinkled(*wanted: np.float32, rows: int = 1) -> Callable[..., Array]:
    """Ordinary rows with these values at places of their own in every `rows`-th row."""

    def make(random: np.random.Generator, shape: tuple[int, int], dtype: Any) -> Array:
        values = _normal(random, shape, dtype)
        for row in range(0, shape[0], rows):
            places = random.permutation(shape[1])[: len(wanted)]
            values[row, places] = wanted[: len(places)]
        return values

    return make


def _normal(random: np.random.Generator, shape: tuple[int, int], dtype: Any) -> Array:
    return np.asarray(np.round(random.standard_normal(shape) * 64) / 64, np.float32)


def _one_hot(random: np.random.Generator, shape: tuple[int, int], dtype: Any) -> Array:
    return np.eye(shape[1], dtype=np.float32)[random.integers(0, shape[1], shape[0])] if shape[1] else np.zeros(shape)


def _mixed(random: np.random.Generator, shape: tuple[int, int], dtype: Any) -> Array:
    return np.asarray(random.choice([-1, 1], shape) * 10.0 ** random.uniform(-9, 9, shape), np.float32)


def _full(value: float) -> Callable[..., Array]:
    return lambda random, shape, dtype: np.full(shape, value, np.float32)


def _steps(low: int, high: int, factor: float = 1.0) -> Callable[..., Array]:
    return lambda random, shape, dtype: np.asarray(random.integers(low, high, shape) * factor, np.float32)


def _integers(low: int, high: int) -> Callable[..., Array]:
    return lambda random, shape, dtype: random.integers(low, high, shape)


def _limits(random: np.random.Generator, shape: tuple[int, int], dtype: Any) -> Array:
    return np.asarray(random.choice([np.iinfo(dtype).min, np.iinfo(dtype).max], shape), dtype)


_FLOATS: list[tuple[str, Kind, bool, Callable[..., Any]]] = [
    ("normal", "finite", True, _normal),
    ("[0, 1)", "finite", True, _steps(0, 256, 1 / 256)),
    ("zeros", "finite", True, _full(0.0)),
    ("ones", "finite", True, _full(1.0)),
    ("-1", "finite", True, _full(-1.0)),
    ("0.5", "finite", True, _full(0.5)),
    ("7", "finite", True, _full(7.0)),
    ("-0.0", "finite", True, _full(-0.0)),
    ("one-hot", "finite", True, _one_hot),
    ("0..255", "finite", True, _steps(0, 256)),
    ("+-1e3", "finite", True, _steps(-1000, 1001)),
    ("+-1e9", "finite", False, _steps(-15, 16, 2.0**26)),
    ("times near 1.7e9", "finite", False, _steps(1_690_000_000, 1_710_000_000)),
    ("ties", "finite", True, _steps(0, 2)),
    ("halves", "finite", True, _steps(-9, 10, 0.5)),
    ("ascending", "finite", True, lambda random, shape, dtype: np.broadcast_to(np.arange(shape[1]), shape)),
    ("+-1e-2", "finite", True, _steps(-15, 16, 2.0**-10)),
    ("+-1e-4", "finite", True, _steps(-15, 16, 2.0**-17)),
    ("+-1e-6", "finite", True, _steps(-15, 16, 2.0**-23)),
    ("+-1e-8", "finite", True, _steps(-15, 16, 2.0**-30)),
    ("1e-9..1e9 in a row", "finite", False, _mixed),
    ("smallest normal", "finite", True, _steps(1, 5, 2.0**-126)),
    ("largest", "extreme", False, lambda random, shape, dtype: np.float32(3e38) * random.choice([-1, 1], shape)),
    ("subnormal", "extreme", False, _steps(-9, 10, 2.0**-149)),
    ("one NaN in each row", "nonfinite", True, _sprinkled(_NAN)),
    ("all NaN", "nonfinite", True, _full(float("nan"))),
    ("one infinity in each row", "nonfinite", True, _sprinkled(_INFINITY)),
    ("one -infinity in each row", "nonfinite", True, _sprinkled(-_INFINITY)),
    ("all infinite", "nonfinite", True, _full(float("inf"))),
    ("all -infinite", "nonfinite", True, _full(float("-inf"))),
    ("both infinities in each row", "nonfinite", True, _sprinkled(_INFINITY, -_INFINITY)),
    ("NaN and infinity beside ordinary rows", "nonfinite", True, _sprinkled(_NAN, _INFINITY, rows=3)),
]
_INTEGERS: list[tuple[str, Kind, bool, Callable[..., Any]]] = [
    ("0..1", "finite", True, _integers(0, 2)),
    ("0..9", "finite", True, _integers(0, 10)),
    ("0..255", "finite", True, _integers(0, 256)),
    ("0", "finite", True, _integers(0, 1)),
    ("-1", "finite", True, _integers(-1, 0)),
    ("+-1000", "finite", True, _integers(-1000, 1001)),
    ("1..9", "finite", True, _integers(1, 10)),
    ("beside 0..9, 10 or -1", "finite", True, _integers(-1, 11)),
    ("smallest and largest", "extreme", True, _limits),
]
_BOOLS: list[tuple[str, Kind, bool, Callable[..., Any]]] = [
    ("bools", "finite", True, _integers(0, 2)),
    ("false", "finite", True, _integers(0, 1)),
    ("true", "finite", True, _integers(1, 2)),
]
