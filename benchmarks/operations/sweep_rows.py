"""Rows on which runtimes differ where they do: zeros, ties, large and tiny numbers, infinities, indices out of range.

    TensorSpecs, a number of rows --> groups, each with a label, a kind and an array for each input

Most finite groups have few significant bits, so that sums of their products with small weights are exact in whatever
order: there a difference is one of the operation, never of rounding. That sets them apart from the product's edge cases
(`tasks/accuracy/edge_cases.py`), whose makers of numbers they share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tasks.accuracy.edge_cases import Make, constant, magnitudes, signs, whole
from tasks.preparation.generated_rows import shape_of
from tasks.protocol.records import TensorSpec
from tasks.protocol.signature import numpy_dtype

Array = np.ndarray[Any, Any]
Kind = Literal["finite", "extreme", "nonfinite"]
_SEED = 20240229
_BEHIND = 5
# Label, kind, whether it is exact, and its numbers; None stands for the smallest and largest of the dtype.
Maker = tuple[str, Kind, bool, Make | None]
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


def sweep_rows(specs: Sequence[TensorSpec], count: int) -> list[Group]:
    """Groups of `count` rows; none for inputs that are no numbers.

    Several inputs go through them in step, and once more with each input some groups behind the one before, so that
    a zero or a NaN meets ordinary numbers, too.
    """
    kinds = ["float" if numpy_dtype(spec.dtype).kind in "fcV" else numpy_dtype(spec.dtype).kind for spec in specs]
    if not specs or any(kind not in ("float", "i", "u", "b") for kind in kinds):
        return []
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


def _made(spec: TensorSpec, count: int, make: Make | None, random: np.random.Generator) -> Array:
    dtype, shape = numpy_dtype(spec.dtype), shape_of(spec, count)
    if not shape:
        return np.ones((), dtype)
    flat = (count, int(np.prod(shape[1:], dtype=np.int64)))
    if make is None:
        values = random.choice([np.iinfo(dtype).min, np.iinfo(dtype).max], flat)
    else:
        values = np.asarray(make(flat, random))
    if dtype.kind in "iu" and values.dtype.kind == "f":
        raise TypeError(f"{values.dtype} for {dtype}")
    if dtype.kind in "iu":
        values = np.clip(values, np.iinfo(dtype).min, np.iinfo(dtype).max)
    elif dtype.kind != "b":
        values = values.astype(np.float32)  # which no float32 input would be given more of
    return np.ascontiguousarray(values.astype(dtype).reshape(shape))


def _sprinkled(*wanted: np.float32, rows: int = 1) -> Make:
    """Ordinary rows with these values at places of their own in every `rows`-th row."""

    def make(shape: tuple[int, ...], random: np.random.Generator) -> Array:
        values = _normal(shape, random)
        for row in range(0, shape[0], rows):
            places = random.permutation(shape[1])[: len(wanted)]
            values[row, places] = wanted[: len(places)]
        return values

    return make


def _normal(shape: tuple[int, ...], random: np.random.Generator) -> Array:
    return np.asarray(np.round(random.standard_normal(shape) * 64) / 64)


def _one_hot(shape: tuple[int, ...], random: np.random.Generator) -> Array:
    return np.eye(shape[1])[random.integers(0, shape[1], shape[0])] if shape[1] else np.zeros(shape)


def _ascending(shape: tuple[int, ...], random: np.random.Generator) -> Array:
    return np.broadcast_to(np.arange(shape[1]), shape)


def _steps(low: int, high: int, factor: float = 1.0) -> Make:
    integers = whole(low, high)
    return lambda shape, random: integers(shape, random) * factor


_FLOATS: list[Maker] = [
    ("normal", "finite", True, _normal),
    ("[0, 1)", "finite", True, _steps(0, 256, 1 / 256)),
    ("zeros", "finite", True, constant(0.0)),
    ("ones", "finite", True, constant(1.0)),
    ("-1", "finite", True, constant(-1.0)),
    ("0.5", "finite", True, constant(0.5)),
    ("7", "finite", True, constant(7.0)),
    ("-0.0", "finite", True, constant(-0.0)),
    ("one-hot", "finite", True, _one_hot),
    ("0..255", "finite", True, _steps(0, 256)),
    ("+-1e3", "finite", True, _steps(-1000, 1001)),
    ("+-1e9", "finite", False, _steps(-15, 16, 2.0**26)),
    ("times near 1.7e9", "finite", False, _steps(1_690_000_000, 1_710_000_000)),
    ("ties", "finite", True, _steps(0, 2)),
    ("halves", "finite", True, _steps(-9, 10, 0.5)),
    ("ascending", "finite", True, _ascending),
    ("+-1e-2", "finite", True, _steps(-15, 16, 2.0**-10)),
    ("+-1e-4", "finite", True, _steps(-15, 16, 2.0**-17)),
    ("+-1e-6", "finite", True, _steps(-15, 16, 2.0**-23)),
    ("+-1e-8", "finite", True, _steps(-15, 16, 2.0**-30)),
    ("1e-9..1e9 in a row", "finite", False, magnitudes(-9, 9)),
    ("smallest normal", "finite", True, _steps(1, 5, 2.0**-126)),
    ("largest", "extreme", False, signs(3e38)),
    ("subnormal", "extreme", False, _steps(-9, 10, 2.0**-149)),
    ("one NaN in each row", "nonfinite", True, _sprinkled(_NAN)),
    ("all NaN", "nonfinite", True, constant(float("nan"))),
    ("one infinity in each row", "nonfinite", True, _sprinkled(_INFINITY)),
    ("one -infinity in each row", "nonfinite", True, _sprinkled(-_INFINITY)),
    ("all infinite", "nonfinite", True, constant(float("inf"))),
    ("all -infinite", "nonfinite", True, constant(float("-inf"))),
    ("both infinities in each row", "nonfinite", True, _sprinkled(_INFINITY, -_INFINITY)),
    ("NaN and infinity beside ordinary rows", "nonfinite", True, _sprinkled(_NAN, _INFINITY, rows=3)),
]
_INTEGERS: list[Maker] = [
    ("0..1", "finite", True, whole(0, 2)),
    ("0..9", "finite", True, whole(0, 10)),
    ("0..255", "finite", True, whole(0, 256)),
    ("0", "finite", True, whole(0, 1)),
    ("-1", "finite", True, whole(-1, 0)),
    ("+-1000", "finite", True, whole(-1000, 1001)),
    ("1..9", "finite", True, whole(1, 10)),
    ("beside 0..9, 10 or -1", "finite", True, whole(-1, 11)),
    ("smallest and largest", "extreme", True, None),
]
_BOOLS: list[Maker] = [
    ("bools", "finite", True, whole(0, 2)),
    ("false", "finite", True, whole(0, 1)),
    ("true", "finite", True, whole(1, 2)),
]
