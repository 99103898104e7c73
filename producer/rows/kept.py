"""Columns of the data set that stand beside the predictions of its rows, as ids and names do.

data set --read once more, of these columns alone--> values of the rows of a part --> beside its outputs
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np

from producer.rows.marked import unfed_of
from producer.rows.objects import odd_texts
from producer.rows.part import Array, OutputTree, Part
from producer.rows.readers import batches_of, rows_between
from producer.rows.rebatcher import Rebatcher, columns, count_rows, picked, skip_rows
from producer.rows.source import MAX_BATCH_BYTES, Batches, BatchSource, Rows, Source, table_of
from worker_config.columns import expanded
from worker_config.errors import InputError, UsageError
from worker_config.files import path_text

# The number of each row, which every data set has; the path of the file that a row is.
ROW, PATH = "row", "path"


class KeptColumns:
    """Columns of a data set, read in step with the parts of a job.

    Args:
        source: the data set, which can be read more than once.
        names: of its columns; "row" is the number of each row, "path" the path of the file that it is.
        models: those of the job.
        numbers: which rows these are, where the data set is some rows of another one.

    Raises:
        UsageError: the data set has no columns by name, or one is called as one of several models is.
        InputError: it has no such column.
    """

    def __init__(
        self,
        source: Source | BatchSource,
        names: Sequence[str],
        models: Sequence[str] = (),
        numbers: Array | None = None,
    ) -> None:
        self.names = expanded(names)
        self._label = source.label
        self._numbers = numbers
        if len(models) > 1 and (same := set(models).intersection(self.names)):
            raise UsageError(f"column {min(same)!r} cannot be kept: the outputs of a model have this name; rename it")
        read, table = [name for name in self.names if name != ROW], table_of(source)
        if read and table is None:
            raise UsageError(
                f"{self._label}: has no columns by name to keep, or can be read only once; keep {ROW!r} alone"
            )
        # Each on its own, as a row that has no value in one of them has one in the others.
        paths = {PATH} if table is not None and PATH in table.others else set()
        self._columns = {name: _Column(table.only([name]), name in paths) for name in read} if table else {}

    def close(self) -> None:
        """Let go of the data set's files."""
        for column in self._columns.values():
            column.close()

    def beside(self, part: Part, output_name: str = "") -> Part:
        """The part with the values of its rows beside its outputs; a single output gets its name, or "output".

        A column is a masked array where rows of the part have null in it.

        Raises:
            InputError: they cannot be read.
            UsageError: a column is called as an output is.
        """
        values = self._values(part.numbers(), part.start, part.stop)
        return replace(part, outputs=self._joined(values, part.outputs, output_name))

    def beside_all(self, outputs: OutputTree, numbers: Array, output_name: str = "") -> OutputTree:
        """The same of all outputs of a job, which are those of these rows, in ascending order."""
        start, stop = (int(numbers[0]), int(numbers[-1]) + 1) if len(numbers) else (0, 0)
        return self._joined(self._values(numbers, start, stop), outputs, output_name)

    def fix_width(self) -> None:
        """Give text with a fixed width, that of the longest, for files of NumPy; reads all rows.

        Raises:
            InputError: one is null, for which these files have no place.
        """
        for name, column in self._columns.items():
            column.fix_width(f"{self._label}: column {name!r}")

    def _values(self, numbers: Array, start: int, stop: int) -> dict[str, Array]:
        """The values of some of the rows `[start, stop)`."""
        rows = numbers if self._numbers is None else self._numbers[numbers]
        values = {ROW: rows}
        for name, column in self._columns.items():
            where = f"{self._label}: column {name!r}"
            values[name] = column.values(numbers, start, stop, rows, where)
            if self._numbers is not None and np.ma.is_masked(values[name]):
                row = rows[np.nonzero(np.ma.getmaskarray(values[name]))[0][0]]
                raise InputError(f"{where}: row {row} is null, which cannot be put among rows that are written already")
        return {name: values[name] for name in self.names}

    def _joined(self, values: dict[str, Array], outputs: OutputTree, output_name: str) -> OutputTree:
        named = outputs if isinstance(outputs, dict) else {output_name or "output": outputs}
        if same := values.keys() & named.keys():
            raise UsageError(f"column {min(same)!r} cannot be kept: an output has this name; rename one of them")
        return {**values, **named}


class _Column:
    """One column of a data set, whose values are asked for in the order of its rows, or again from an earlier one."""

    def __init__(self, source: Source | BatchSource, is_path: bool) -> None:
        self._source = source
        self._is_path = is_path
        self._dtype: np.dtype[Any] | None = None
        self._batches: Batches | None = None
        self._read: Iterator[Rows] = iter(())
        self._waiting = Rebatcher()
        self._at = 0

    def close(self) -> None:
        """Let go of the data set's files."""
        if self._batches is not None:
            self._batches.close()
            self._batches = None

    def values(self, numbers: Array, start: int, stop: int, rows: Array, where: str) -> Array:
        """The values of those of the rows `[start, stop)` that have these numbers; `rows` is what people call them."""
        if start == stop:
            return np.empty(0, object)
        taken = self._take(start, stop, where)
        column = self._of(taken)
        if isinstance(column, list):
            raise InputError(f"{where} has lists of many lengths, and cannot be kept")
        values = column[numbers - start]
        nulls = np.isin(numbers - start, [*unfed_of(taken)])
        if odd := unfed_of(odd_texts(values)):
            raise InputError(f"{where}: row {rows[min(odd)]} cannot be kept: {odd[min(odd)]}")
        if self._dtype is not None:
            values = values.astype(self._dtype)
        return np.ma.array(values, mask=_over(nulls, values)) if nulls.any() else values

    def _of(self, rows: Rows) -> Any:
        """The column of some rows; paths of files as texts, which those that are no UTF-8 are not as rows."""
        (column,) = columns(rows)
        if not self._is_path:
            return column
        return np.array([path_text(path) if isinstance(path, bytes) else path for path in column], dtype=object)

    def fix_width(self, where: str) -> None:
        """Give text with a fixed width, unless NumPy would change it, as it cuts zeros at its end."""
        found: set[str] = set()
        width, is_cut, first = 1, False, 0
        for rows in _blocks(self._source):
            column = self._of(rows)
            if unfed := unfed_of(rows):
                raise InputError(
                    f"{where}: row {first + min(unfed)} is null, for which .npz has no place; keep it in .parquet, "
                    ".jsonl or .csv"
                )
            first += count_rows(rows)
            if not isinstance(column, list) and column.dtype.hasobject:
                texts = [value for value in column.flat if isinstance(value, str | bytes)]
                found |= {"U" if isinstance(value, str) else "S" for value in texts}
                is_cut = is_cut or len(texts) < column.size or any(text[-1:] in ("\0", b"\0") for text in texts)
                width = max([width, *map(len, texts)])
        if len(found) == 1 and not is_cut:
            self._dtype = np.dtype(f"{found.pop()}{width}")

    def _take(self, start: int, stop: int, where: str) -> Rows:
        """The rows `[start, stop)`, of a data set that is read in order those after the ones that were taken last."""
        if isinstance(self._source, Source):
            return rows_between(self._source, start, stop)
        if self._batches is None or start < self._at:
            self.close()
            self._batches = batches_of(self._source)
            self._waiting, self._at = Rebatcher(), start
            self._read = skip_rows(self._batches, start, where)
        while self._waiting.rows < stop - self._at:
            if (batch := next(self._read, None)) is None:
                raise InputError(f"{where}: had {stop} rows or more when it was read first, now fewer")
            self._waiting.add(batch)
        before = start - self._at
        taken, count = self._waiting.take(stop - self._at)
        self._at = stop
        return picked(taken, np.arange(before, count)) if before else taken


def _over(nulls: Array, values: Array) -> Array:
    """Which values are those of rows that are null."""
    return np.broadcast_to(nulls.reshape(-1, *[1] * (values.ndim - 1)), values.shape)


def _blocks(source: Source | BatchSource) -> Iterator[Rows]:
    if isinstance(source, Source):
        rows = max(1, int(MAX_BATCH_BYTES / max(1.0, source.row_bytes)))
        for start in range(0, source.rows, rows):
            yield rows_between(source, start, min(start + rows, source.rows))
        return
    with closing(batches_of(source)) as batches:
        yield from batches
