"""The join: puts the chunks' outputs, which come in any order and perhaps twice, at their place.

`Join` drops duplicates and holds back what came too early, if order is wanted; `ResultArrays` puts parts into whole
arrays. `Layout` is what both these and the sinks hold every part against. A model that fails alone is left out of both,
whenever that comes to light: of parts that have it, and of what was placed.
"""

from __future__ import annotations

import threading
from collections.abc import Collection
from dataclasses import replace

import numpy as np

from producer.rows.drop_rows import close_gaps
from producer.rows.part import OutputTree, Part, flatten, title_of, unflatten
from tasks.outputs.parts import row_specs
from tasks.outputs.row_spec import RowSpec, output_name
from tasks.outputs.widen import wide_dtype
from tasks.protocol.codec import Array, Key
from worker_config.errors import CeleriacError, MessageError, UsageError


class Join:
    """Answers in any order go in, parts in order of their chunk index come out; memory only for those held back.

    With `ordered` False a part comes out as soon as it came in, each chunk's once.
    """

    next_index: int
    duplicates: int

    def __init__(self, *, ordered: bool = True) -> None:
        self.next_index = 0
        self.duplicates = 0
        self._ordered = ordered
        self._held: dict[int, Part] = {}
        self._ahead: set[int] = set()  # released before one that is missing

    @property
    def waiting(self) -> int:
        """How many parts are held."""
        return len(self._held)

    def add(self, part: Part) -> bool:
        """Take the answer of one chunk; False, and counted, if that chunk was already answered.

        Raises:
            MessageError: the outputs are not one row for each row of the chunk that is not left out.
        """
        index = part.index
        if index < self.next_index or index in self._held or index in self._ahead:
            self.duplicates += 1
            return False
        flatten(part)
        self._held[index] = part
        return True

    def pop_ready(self) -> list[Part]:
        """Release the parts that are next in order, an empty list while the next one is missing; or all there are."""
        ready = []
        if not self._ordered:
            ready = list(self._held.values())
            self._ahead.update(self._held)
            self._held.clear()
            while self.next_index in self._ahead:
                self._ahead.remove(self.next_index)
                self.next_index += 1
        while (part := self._held.pop(self.next_index, None)) is not None:
            ready.append(part)
            self.next_index += 1
        return ready


class Layout:
    """The dtype and the row shape of every output, learnt from the first part; all others must agree.

    Attributes:
        rows: rows of the whole output; None where unknown.
        first_row: rows before it are not ours to place.
        without: models whose outputs are left out; looked at anew with each part, and may only grow.
        specs: what one row of each output is; empty until the first part, and then the same for ever.
        placed: rows counted so far, those before `first_row` included.
        skipped: those of them that failed and have no place.
    """

    placed: int
    skipped: int

    def __init__(self, rows: int | None, first_row: int = 0, without: Collection[str] = ()) -> None:
        self.rows = rows
        self.first_row = first_row
        self.without = without
        self.specs: dict[Key, RowSpec] = {}
        self.placed = first_row
        self.skipped = 0

    def kept_specs(self) -> dict[Key, RowSpec]:
        """Those of `specs` that are not left out."""
        left_out = frozenset(self.without)
        return {key: spec for key, spec in self.specs.items() if left_out.isdisjoint(key[:1])}

    def accept(self, part: Part) -> dict[Key, Array]:
        """Check a part and give its arrays by key, in the order of `kept_specs`; each chunk may come once.

        Of a part that workers have written there are none, and its outputs are as they will be in files.

        Raises:
            MessageError: the part lies outside the rows, or its outputs differ from those of the first part.
            UsageError: workers have written a column beside an output of its name.
        """
        left_out = frozenset(self.without)
        arrays = {key: array for key, array in flatten(part).items() if left_out.isdisjoint(key[:1])}
        specs = {key: RowSpec(array.dtype, array.shape[1:]) for key, array in arrays.items()}
        if self.rows is not None and not self.first_row <= part.start <= part.stop <= self.rows:
            wanted = f"[{self.first_row}, {self.rows})"
            raise MessageError(f"{title_of(part)} lies outside the rows of the data set, {wanted}")
        if part.stored is not None:
            if part.stored.ref is None or not part.stored.ref.outputs:
                return {}
            outputs, kept = row_specs(part.stored.ref.outputs), row_specs(part.stored.ref.kept)
            if same := outputs.keys() & kept.keys():
                raise UsageError(f"column {min(same)[0]!r} cannot be kept: an output has this name; rename one of them")
            specs = {key: RowSpec(wide_dtype(one.dtype), one.shape) for key, one in (kept | outputs).items()}
        self.specs = self.specs or specs
        known = {key: spec for key, spec in self.specs.items() if left_out.isdisjoint(key[:1])}
        if specs.keys() != known.keys():
            raise MessageError(f"{title_of(part)} has the outputs {_names(specs)}, earlier ones had {_names(known)}")
        for key, spec in specs.items():
            if spec != self.specs[key]:
                raise MessageError(
                    f"{title_of(part)}: {output_name(key)} has rows of {spec}, earlier ones had {self.specs[key]}"
                )
        return {key: arrays[key] for key in known} if part.stored is None else {}

    def count(self, part: Part) -> None:
        """Note that the rows of a part are at their place, or left out."""
        self.placed += part.stop - part.start
        self.skipped += part.skipped

    def check_complete(self) -> None:
        """Make sure that every row was placed.

        Raises:
            CeleriacError: rows are missing, or came twice.
        """
        if self.rows is not None and self.placed != self.rows:
            raise CeleriacError(f"the output is not complete: {self.placed} of {self.rows} rows were placed")


class ResultArrays:
    """Parts, in any order but each one once, become whole arrays in memory; rows that a part lacks are in none.

    With `rows` known each array is allocated once, on the first part. With None the parts are kept and
    concatenated at the end. Rows before `first_row` are left out, and so are the models in `without`, which may grow.
    """

    def __init__(self, rows: int | None, first_row: int = 0, without: Collection[str] = ()) -> None:
        self._layout = Layout(rows, first_row, without)
        self._whole: dict[Key, Array] = {}
        self._lock = threading.Lock()  # of the layout and of what is allocated; rows are copied without it
        self._parts: list[tuple[int, dict[Key, Array]]] = []
        self._gaps: list[tuple[int, int]] = []  # places where no row will ever be

    def add(self, part: Part) -> None:
        """Put one part at its place.

        Raises:
            MessageError: the part does not fit the rows or the first part; the text names chunk and output.
        """
        arrays, places = self._accept(part)
        self._layout.count(part)
        if self._layout.rows is None:
            self._parts.append((part.index, arrays))
        elif part.skipped:
            stop = part.stop - self._layout.first_row
            self._gaps.append((stop - part.skipped, stop))
        _copy(arrays, places)

    def place(self, part: Part) -> Part:
        """Copy a part's arrays to their place ahead of `add`, from any thread; the part given back looks at them there.

        Where `rows` is None there are no places yet, and the arrays are copied to memory of their own.

        Raises:
            MessageError: as `add`.
        """
        arrays, places = self._accept(part)
        if self._layout.rows is None:
            places = {key: np.empty_like(array) for key, array in arrays.items()}
        _copy(arrays, places)
        return replace(part, outputs=unflatten(places))

    def _accept(self, part: Part) -> tuple[dict[Key, Array], dict[Key, Array]]:
        """A part's arrays, checked, and their places; none where `rows` is None."""
        with self._lock:
            arrays = self._layout.accept(part)
            return arrays, {} if self._layout.rows is None else self._places(part.start, part.rows)

    def room(self, start: int, stop: int) -> OutputTree | None:
        """The arrays at the place of rows `[start, stop)`, for bytes to be read into, in a part that `add` then takes.

        None while the outputs are not known, and where bytes from outside must not become values unseen.
        """
        with self._lock:
            dtypes = [spec.dtype for spec in self._layout.kept_specs().values()]
            plain = all(dtype.kind in "iufc" and dtype.newbyteorder("<") == dtype for dtype in dtypes)
            if self._layout.rows is None or not self._whole or not plain:
                return None
            return unflatten(self._places(start, stop - start))

    def _places(self, start: int, count: int) -> dict[Key, Array]:
        first_row, specs = self._layout.first_row, self._layout.kept_specs()
        if not self._whole:
            rows = (self._layout.rows or 0) - first_row
            self._whole = {key: np.empty((rows, *spec.shape), spec.dtype) for key, spec in specs.items()}
        elif len(specs) < len(self._whole):
            self._whole = {key: self._whole[key] for key in specs}
        return {key: array[start - first_row :][:count] for key, array in self._whole.items()}

    def result(self) -> OutputTree:
        """Give the outputs as the parts had them: an array, a dict, or a dict of dicts.

        Without any part nothing is known of the outputs: the result is then a float32 array of shape (0,).

        Raises:
            CeleriacError: rows are missing; what was never placed is never returned.
        """
        self._layout.check_complete()
        if not self._layout.specs:
            return np.empty((0,), np.float32)
        if self._gaps:
            self._whole = {key: close_gaps(array, self._gaps) for key, array in self._whole.items()}
            self._gaps.clear()
        whole = self._whole or self._concatenated()
        return unflatten({key: whole[key] for key in self._layout.kept_specs()})

    def _concatenated(self) -> dict[Key, Array]:
        in_order = [arrays for _, arrays in sorted(self._parts, key=lambda part: part[0])]
        return {key: np.concatenate([arrays[key] for arrays in in_order]) for key in self._layout.kept_specs()}


def _copy(arrays: dict[Key, Array], places: dict[Key, Array]) -> None:
    for key, place in places.items():
        # What `ResultArrays.place` has put there is there already; memory that only overlaps is not.
        if place.__array_interface__ != arrays[key].__array_interface__:
            place[...] = arrays[key]


def _names(specs: dict[Key, RowSpec]) -> str:
    return ", ".join("/".join(key) or "(one array)" for key in specs)
