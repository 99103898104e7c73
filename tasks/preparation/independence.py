"""Finds out whether a row's prediction depends on more than the row: the rest of its batch, earlier calls, chance.

    one batch of rows --again, from the saved state, with other seeds--> chance, history
                      --other rows beside them-------------------------> neighbours
                      --one row everywhere, all rows moved-------------> place

All runs have as many rows, and so the same kernels: what differs by no more than rounding is no dependence.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from tasks.accuracy.accuracy_gate import is_equal, tells_apart
from tasks.accuracy.rounding import in_float64
from tasks.executors.graph_operations import is_chance
from tasks.models.program import FlatArrays, FlatCall
from tasks.models.state import state_of
from tasks.preparation.calibration import calibration_rows
from tasks.preparation.generated_rows import generated_rows, shape_of
from tasks.protocol.records import Dependence, TensorSpec
from tasks.protocol.signature import numpy_dtype
from worker_config.errors import ConfigError
from worker_config.manifest import ModelEntry

# In units of the outputs' spread. By place, rounding is some 1e-6 of the magnitude, a hundred times as much where a
# root or a difference makes more of it.
LEAST = 2e-3
# At the same place, of the same rows, results are equal to the bit but where threads race.
LEAST_AT_SAME_PLACE = 2e-4
LEAST_SPREAD = 1e-2  # of the magnitude
# A graph that computes in half precision rounds at every operation.
LEAST_OF_HALF = 16 * float(ml_dtypes.finfo(ml_dtypes.bfloat16).eps)  # type: ignore[no-untyped-call]
# Of the first run of a batch; a model that takes longer is not looked at.
MOST_SECONDS = 30.0
# Of a model that writes to its variables, one after the other.
CALLS = 6
# What stands in some rows beside ordinary ones: a graph may look at the whole batch for such numbers.
ODD = (float("nan"), 255.0, -1e4)
# Of rows whose outputs are no floats: rounding may part some that are tied.
LEAST_SHARE, LEAST_ROWS = 0.01, 2
_WORDS = ["the", "a", "good", "bad", "film", "was", "not", "dog", "and", "1", "10", "37", "2.5", "-4", "yes", "no"]

Array = np.ndarray[Any, Any]


def examine(
    call: FlatCall, inputs: Sequence[TensorSpec], entry: ModelEntry, batch_rows: int, *, half: bool = False
) -> list[Dependence] | None:
    """What a row's prediction depends on besides the row, and how much; None where the model runs on no such rows.

    The model is left in its saved state; `half` says whether it computes in half precision.

    Raises:
        ConfigError: the calibration file is not as it should be.
    """
    dependences: dict[bool, list[Dependence]] = {}
    beside_odd = 0.0
    for rows in _candidates(inputs, entry, batch_rows):
        examined = _Examined(call, rows, half=half)
        try:
            found = examined.dependence()
            is_telling = not tells_apart(examined.whole)
            if is_telling and not found and not beside_odd:
                beside_odd = _beside_odd(call, rows, half=half)
        except ConfigError:
            raise
        except Exception:  # noqa: S112 - which rows a model understands is not known beforehand
            continue
        finally:
            examined.restore()
        if is_telling not in dependences:
            dependences[is_telling] = found
        else:
            # A number that is out of its new type's range comes out by place, on some rows but not on all.
            moves = any(one.on == "place" for one in found)
            dependences[is_telling] = [one for one in dependences[is_telling] if moves or one.on != "place"]
        if is_telling and (
            len(dependences[True]) < len(found) or not any(one.on == "place" for one in dependences[True])
        ):
            break
    if beside_odd:
        dependences[True] = [*dependences.get(True, []), _dependence("neighbours", beside_odd)]
    return dependences.get(True, dependences.get(False))


def with_chance(found: list[Dependence] | None, operations: Collection[str]) -> list[Dependence] | None:
    """The same with chance, where random numbers are on the way to the outputs, whatever could be measured of them."""
    known = {one.on for one in found or ()}
    if known & {"chance", "history", "place"} or not any(map(is_chance, operations)):
        return found
    return [*(found or ()), _dependence("chance", math.inf)]


def _beside_odd(call: FlatCall, rows: FlatArrays, *, half: bool) -> float:
    """How much rows depend on their neighbours where some of these, or they themselves, are out of the ordinary."""
    amounts = []
    for value in ODD:
        odd = [array.copy() for array in rows]
        for array in odd:
            if array.dtype.kind == "f" and array.ndim > 1:
                array[1::4].reshape(len(array[1::4]), -1)[:, :1] = value
        if all(np.array_equal(one, other, equal_nan=True) for one, other in zip(odd, rows, strict=True)):
            break
        examined = _Examined(call, odd, half=half)
        try:
            amounts.append(examined.neighbours())
        except Exception:  # noqa: S112 - the model may refuse them
            continue
        finally:
            examined.restore()
    return max(amounts, default=0.0)


class _Examined:
    """A model's outputs for one batch, and for the same rows in other circumstances.

    Amounts are in units of the outputs' spread: 0 within rounding, infinite where there is no measure.
    """

    def __init__(self, call: FlatCall, rows: FlatArrays, *, half: bool) -> None:
        self._call, self._rows, self._state = call, rows, state_of(call)
        self._least = LEAST_OF_HALF if half else LEAST
        self._count = len(rows[0])
        self.whole: FlatArrays = []

    def restore(self, first_row: int | None = None, *, seeds_alone: bool = False) -> None:
        """Put the model into its saved state."""
        if self._state is not None:
            self._state.restore(first_row, seeds_alone=seeds_alone)

    def dependence(self) -> list[Dependence]:
        """What the rows depend on; raises Exception where the model does not run on them, or gives other rows."""
        started = time.monotonic()
        self.whole = self._run(self._rows)
        if time.monotonic() - started > MOST_SECONDS:
            raise TimeoutError("a worker's start would wait for ten times as long")
        if any(not array.ndim or len(array) != self._count for array in self.whole):
            raise ValueError("rows out differ from rows in")
        for _ in range(1 if self._state is None else CALLS):  # it may act only after some
            self.restore(seeds_alone=True)
            again = self._call(self._rows)
        fresh = self._run(self._rows)
        if chance := self._amount(fresh, LEAST_AT_SAME_PLACE):
            return [_dependence("chance", chance)]
        is_exact = self._state is not None and all(map(is_equal, self.whole, fresh))
        by_seed = self._amount(self._run(self._rows, first_row=1), LEAST_AT_SAME_PLACE)
        amounts = {
            "neighbours": self._neighbours(),
            "history": self._amount(again, 0.0 if is_exact else LEAST_AT_SAME_PLACE),
            "chance": by_seed,
        }
        if not by_seed:  # there is other noise at another place
            amounts["place"] = self._place(are_alone=amounts["neighbours"] > 0)
        return [_dependence(on, amount, seeded=on == "chance") for on, amount in amounts.items() if amount]

    def neighbours(self) -> float:
        """The same of other rows of the batch alone; raises Exception where the model does not run on them."""
        self.whole = self._run(self._rows)
        return self._neighbours()

    def _run(self, rows: FlatArrays, first_row: int | None = None) -> FlatArrays:
        self.restore(first_row)
        return self._call(rows)

    def _neighbours(self) -> float:
        evens = np.arange(self._count) % 2 == 0
        if self._count < 2:
            return 0.0
        amounts = []
        for stay in (evens, ~evens):
            mixed = [np.where(stay.reshape(-1, *[1] * (array.ndim - 1)), array, array[::-1]) for array in self._rows]
            amounts.append(self._amount(self._run(mixed), self._least, stay))
        for row in (0, self._count // 2):
            amounts.append(self._amount(self._run(self._everywhere(row)), self._least, slice(row, row + 1)))
        return max(amounts)

    def _place(self, *, are_alone: bool) -> float:
        """`are_alone`: with copies of themselves for company, as others tell."""
        middle = self._count // 2
        everywhere = self._run(self._everywhere(middle))
        wanted = [array[[middle] * self._count] for array in everywhere]
        amounts = [self._amount(everywhere, self._least, wanted=wanted)]
        places = np.arange(self._count)
        for order in () if are_alone else (places[::-1], np.roll(places, 1)):
            moved = self._run([np.ascontiguousarray(array[order]) for array in self._rows])
            amounts.append(self._amount([array[np.argsort(order)] for array in moved], self._least))
        return max(amounts)

    def _everywhere(self, row: int) -> FlatArrays:
        return [np.ascontiguousarray(array[[row] * self._count]) for array in self._rows]

    def _amount(
        self, outputs: FlatArrays, least: float, rows: Any = slice(None), wanted: FlatArrays | None = None
    ) -> float:
        """How far these outputs are from those wanted, or from the whole's, in some of the rows."""
        amounts = []
        for whole, one, other in zip(self.whole, wanted or self.whole, outputs, strict=True):
            if one.shape != other.shape:
                return math.inf
            if whole.dtype.kind in "fcV":
                bits = LEAST_OF_HALF if whole.dtype.itemsize < 4 and least == self._least else least
                amounts.append(_deviation(in_float64(whole), in_float64(one)[rows], in_float64(other)[rows], bits))
            else:
                amounts.append(_share(one[rows], other[rows], at_same_place=least < self._least))
        return max(amounts, default=0.0)


def _dependence(on: Any, amount: float, *, seeded: bool = False) -> Dependence:
    return Dependence(on, amount if math.isfinite(amount) else None, seeded)


def _deviation(whole: Array, wanted: Array, got: Array, least: float) -> float:
    """The largest deviation in units of the column's spread; of the size, where all rows have about the same."""
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.where((wanted == got) | (np.isnan(wanted) & np.isnan(got)), 0.0, np.abs(got - wanted))
    if not np.isfinite(apart).all():
        return math.inf
    finite = np.where(np.isfinite(whole), whole, 0.0)
    columns = finite.reshape(-1, finite.shape[-1] if finite.ndim > 1 else 1)
    magnitude, spread = np.abs(columns).max(axis=0, initial=0.0), (finite - finite.mean(axis=0)).std()
    unit = np.maximum.reduce([0.1 * np.full_like(magnitude, spread), _spread(finite), LEAST_SPREAD * magnitude])
    if spread <= LEAST_SPREAD * magnitude.max(initial=0.0):
        unit = np.maximum(magnitude.max(initial=0.0), np.abs(apart).max(initial=0.0))
    amount = float(
        (apart / np.maximum(unit if finite.ndim > 1 else unit.max(), np.finfo(np.float64).tiny)).max(initial=0.0)
    )
    return amount if amount > least else 0.0


def _spread(values: Array) -> Array:
    """By column of the last axis, how far rows lie from their mean."""
    deviations = values - values.mean(axis=0)
    columns: Array = deviations.reshape(-1, values.shape[-1] if values.ndim > 1 else 1)
    return np.asarray(columns.std(axis=0))


def _share(wanted: Array, got: Array, *, at_same_place: bool) -> float:
    """The share of rows that differ."""
    if not len(wanted):
        return 0.0
    differ = (wanted != got).reshape(len(wanted), -1).any(axis=1)
    count, rows = int(differ.sum()), len(differ)
    few = at_same_place or rows < 2 * LEAST_ROWS
    return count / rows if count >= (1 if few else max(LEAST_ROWS, math.ceil(LEAST_SHARE * rows))) else 0.0


def _candidates(inputs: Sequence[TensorSpec], entry: ModelEntry, batch_rows: int) -> Iterator[FlatArrays]:
    """Batches of rows: those of the gate, with words where it has none; at last blank ones."""
    if not inputs or any(not spec.shape for spec in inputs):
        return
    if entry.calibration:
        rows, _ = calibration_rows(Path(entry.calibration), inputs)
        yield [_recycled(array, batch_rows) for array in rows]
        return
    numbers = [spec for spec in inputs if spec.dtype != "string"]
    random = np.random.default_rng(0)
    made: Iterable[FlatArrays] = generated_rows(numbers, batch_rows) if numbers else [[]]
    for arrays in made:
        given = iter(arrays)
        yield [
            _texts(spec, batch_rows, random) if spec.dtype == "string" else _recycled(next(given), batch_rows)
            for spec in inputs
        ]
    yield [
        np.full(shape_of(spec, batch_rows), b"" if spec.dtype == "string" else 0, numpy_dtype(spec.dtype))
        for spec in inputs
    ]


def _recycled(array: Array, rows: int) -> Array:
    return np.ascontiguousarray(array[np.arange(rows) % len(array)])


def _texts(spec: TensorSpec, rows: int, random: np.random.Generator) -> Array:
    shape = shape_of(spec, rows)
    made = [" ".join(random.choice(_WORDS, size=random.integers(1, 6))).encode() for _ in range(math.prod(shape))]
    texts = np.empty(len(made), object)
    texts[:] = made
    return texts.reshape(shape)
