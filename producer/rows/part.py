"""What a chunk's outputs are on the caller's side: a `Part`, its trees of arrays, and their names."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias

import msgspec
import numpy as np

from tasks.datasets.columns import runs_of
from tasks.outputs.row_spec import output_name
from tasks.protocol.codec import Array, Key, leaves_of, tree_of
from tasks.protocol.messages import FailureRecord, PartRef
from worker_config.errors import MessageError

# One array, {output: array}, {model: {output: array}}, or what a function returns: dicts and tuples within each other.
OutputTree: TypeAlias = Array | dict[str, Any] | tuple[Any, ...]


class StoredPart(NamedTuple):
    """The file that has the outputs of a part, and its XXH3-64; `ref` is None where none of the rows has any."""

    ref: PartRef | None
    checksum: int = 0


@dataclass(frozen=True, slots=True)
class Part:
    """The outputs of one chunk, which is the rows `[start, stop)`.

    Every array has one row for each of them, but for `skipped` rows that are left out: those that failed, where these
    are skipped, and the `dropped`, runs `[start, stop)` of rows that a preprocess function left out on purpose.
    `failed` are the records of rows that have no prediction: left out, or with a filler in their place. `nonfinite` is
    how many of the predicted rows have inputs, and how many outputs, that are not finite. Where workers write the
    outputs, `stored` is their file, and there are none here.
    """

    index: int
    start: int
    stop: int
    outputs: OutputTree
    failed: tuple[FailureRecord, ...] = ()
    skipped: int = 0
    dropped: tuple[tuple[int, int], ...] = ()
    nonfinite: tuple[int, int] = (0, 0)
    stored: StoredPart | None = None

    @property
    def rows(self) -> int:
        """Rows of each array."""
        return self.stop - self.start - self.skipped

    @property
    def failed_rows(self) -> int:
        """Rows of the chunk that have no prediction."""
        return sum(record.stop - record.start for record in self.failed)

    @property
    def failed_mask(self) -> Array:
        """Which rows of each array have a filler in the place of a prediction: booleans."""
        mask = np.zeros(self.stop - self.start, np.bool_)
        for record in self.failed:
            mask[record.start - self.start : record.stop - self.start] = True
        return mask[self.numbers() - self.start] if self.skipped else mask

    @property
    def dropped_rows(self) -> int:
        """Rows of the chunk that were left out on purpose."""
        return sum(stop - start for start, stop in self.dropped)

    @property
    def predicted_rows(self) -> int:
        """Rows of the chunk that have a prediction."""
        return self.stop - self.start - self.failed_rows - self.dropped_rows

    def numbers(self) -> Array:
        """Which rows of the data set those of each array are.

        Raises:
            MessageError: rows are left out for which there is no record.
        """
        kept = np.ones(self.stop - self.start, np.bool_)
        lacking = [(record.start, record.stop) for record in self.failed] if self.skipped > self.dropped_rows else []
        for start, stop in (*lacking, *self.dropped):
            kept[start - self.start : stop - self.start] = False
        numbers: Array = self.start + np.flatnonzero(kept)
        if len(numbers) != self.rows:
            raise MessageError(f"{title_of(self)} lacks {self.skipped} rows, {self.failed_rows} have a failure record")
        return numbers

    def each(self) -> Iterator[Any]:
        """The outputs of one row after the other."""
        leaves = list(leaves_of(self.outputs))
        for row in range(self.rows):
            yield tree_of({key: array[row] for key, array in leaves})

    def without(self, models: Collection[str]) -> Part:
        """The same part without the outputs of these models."""
        return replace(self, outputs=without(self.outputs, models)) if models else self


class Marks:
    """Which rows many parts have, and which of these have a filler: memory only where rows failed or are missing."""

    def __init__(self) -> None:
        # Runs of parts: first row, last row, rows of their arrays, and which are filled, None for none.
        self._runs: list[tuple[int, int, int, Array | None]] = []
        self._missing: list[Array] = []  # rows that parts lack

    def clear(self) -> None:
        """Forget all parts; they come again."""
        self._runs.clear()
        self._missing.clear()

    def add(self, part: Part) -> None:
        """Take in a part, each chunk's once."""
        if part.skipped:
            self._missing.append(np.setdiff1d(np.arange(part.start, part.stop), part.numbers(), assume_unique=True))
        mask = part.failed_mask if part.failed else None
        run = (part.start, part.stop, part.rows, mask if mask is not None and mask.any() else None)
        if self._runs and run[3] is None and self._runs[-1][1] == part.start and self._runs[-1][3] is None:
            start, _, rows, _ = self._runs.pop()
            run = (start, part.stop, rows + part.rows, None)
        self._runs.append(run)

    def mask(self) -> Array:
        """Booleans, for all rows so far, in the data set's order."""
        whole = np.zeros(sum(rows for _, _, rows, _ in self._runs), np.bool_)
        end = 0
        for _, _, rows, mask in sorted(self._runs, key=_place):
            if mask is not None:
                whole[end : end + rows] = mask
            end += rows
        return whole

    def numbers(self) -> Array:
        """Which rows of the data set these are, in its order."""
        none = np.empty(0, np.int64)
        runs = sorted(self._runs, key=_place)
        numbers = np.concatenate([none, *(np.arange(start, stop) for start, stop, _, _ in runs)])
        return numbers[~np.isin(numbers, np.concatenate([none, *self._missing]))] if self._missing else numbers


def _place(run: tuple[int, int, int, Array | None]) -> tuple[int, int]:
    return run[:2]


def without(outputs: OutputTree, models: Collection[str]) -> OutputTree:
    """Outputs by model name without those of some models."""
    left_out = frozenset(models)  # another thread may add to it
    if not left_out or not isinstance(outputs, dict):
        return outputs
    return {name: output for name, output in outputs.items() if name not in left_out}


def flatten(part: Part) -> dict[Key, Array]:
    """Give every array of a part by the names that lead to it; none, where workers write them.

    Raises:
        MessageError: there is no array, something else stands in its place, or it has not one row per row of the chunk.
    """
    if part.stored is not None:
        return {}
    arrays = dict(leaves_of(part.outputs))
    for key, array in arrays.items():
        if odd := [name for name in key if not isinstance(name, str)]:
            raise MessageError(f"{title_of(part)}: outputs have strings as names, {odd[0]!r} is none")
        if not isinstance(array, np.ndarray):
            other = "an empty dict" if array == {} else f"a {type(array).__name__}"
            raise MessageError(f"{title_of(part)}: {output_name(key)} is {other}, it must be an array")
        rows = part.rows
        if array.ndim == 0 or len(array) != rows:
            raise MessageError(
                f"{title_of(part)}: {output_name(key)} has the shape {array.shape}, it must have {rows} rows"
            )
    return arrays


def unflatten(arrays: Mapping[Key, Array]) -> OutputTree:
    """Undo `flatten`."""
    tree: OutputTree = tree_of(arrays)
    return tree


def title_of(part: Part) -> str:
    """Name a part for people."""
    return f"chunk {part.index} (rows {part.start}-{part.stop})"


def renumbered(record: FailureRecord, numbers: Array) -> list[FailureRecord]:
    """A record of some of these rows, in ascending order, with their numbers: one for each run of them."""
    runs = runs_of(numbers[record.start : record.stop])
    return [msgspec.structs.replace(record, start=start, stop=stop) for start, stop in runs]
