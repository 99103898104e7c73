"""Columns of the data set that stand beside the predictions of its rows, as ids and names do.

data set --read once more, of these columns alone--> values of the rows of a part --> beside its outputs
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np

from producer.rows.columns import columns_of
from producer.rows.marked import plain, unfed_of
from producer.rows.objects import odd_texts
from producer.rows.part import Array, OutputTree, Part
from producer.rows.readers import batches_of, rows_between
from producer.rows.rebatcher import Rebatcher, count_rows, picked, skip_rows
from producer.rows.source import MAX_BATCH_BYTES, Batches, BatchSource, Rows, Source, table_of
from worker_config.columns import expanded
from worker_config.errors import InputError, UsageError

# The number of each row, which every data set has.
ROW = "row"


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
        self._source = table.only(read) if read and table else None
        self._dtypes: dict[str, np.dtype[Any]] = {}
        self._batches: Batches | None = None
        self._read: Iterator[Rows] = iter(())
        self._waiting = Rebatcher()
        self._at = 0

    def close(self) -> None:
        """Let go of the data set's files."""
        if self._batches is not None:
            self._batches.close()
            self._batches = None

    def beside(self, part: Part, output_name: str = "") -> Part:
        """The part with the values of its rows beside its outputs; a single output gets its name, or "output".

        Raises:
            InputError: they cannot be read, or one is null, of a row that has a place in the output.
            UsageError: a column is called as an output is.
        """
        values = self._values(part.numbers(), part.start, part.stop)
        return replace(part, outputs=self._joined(values, part.outputs, output_name))

    def beside_all(self, outputs: OutputTree, numbers: Array, output_name: str = "") -> OutputTree:
        """The same of all outputs of a job, which are those of these rows, in ascending order."""
        start, stop = (int(numbers[0]), int(numbers[-1]) + 1) if len(numbers) else (0, 0)
        return self._joined(self._values(numbers, start, stop), outputs, output_name)

    def fix_width(self) -> None:
        """Give text with a fixed width, that of the longest, for files of NumPy; reads all rows."""
        if self._source is None:
            return
        widths: dict[str, tuple[str, int] | None] = {}
        for rows in _blocks(self._source):
            for name, column in columns_of(rows, self._label).items():
                if isinstance(column, list) or not column.dtype.hasobject or (name in widths and not widths[name]):
                    continue
                kinds = {"U" if isinstance(value, str) else "S" for value in column.flat}
                cut = any(value[-1:] in ("\0", b"\0") for value in column.flat)  # as NumPy would, in silence
                kind, width = widths.get(name) or (min(kinds, default="U"), 1)
                fits = not cut and kinds <= {kind}
                widths[name] = (kind, max([width, *map(len, column.flat)])) if fits else None
        self._dtypes = {name: np.dtype(f"{found[0]}{found[1]}") for name, found in widths.items() if found}

    def _values(self, numbers: Array, start: int, stop: int) -> dict[str, Array]:
        """The values of some of the rows `[start, stop)`."""
        values: dict[str, Array] = {ROW: numbers if self._numbers is None else self._numbers[numbers]}
        if self._source is not None and start == stop:
            values |= dict.fromkeys(self.names, np.empty(0, object)) | {ROW: values[ROW]}
        elif self._source is not None:
            rows = odd_texts(self._take(self._source, start, stop))
            # Rows that are left out, as those that failed may be, need no values.
            if unfed := {at: why for at, why in unfed_of(rows).items() if start + at in numbers}:
                row = values[ROW][np.searchsorted(numbers, start + min(unfed))]
                raise InputError(f"{self._label}: row {row} cannot be kept: {unfed[min(unfed)]}")
            for name, column in columns_of(plain(rows), self._label).items():
                if isinstance(column, list):
                    raise InputError(f"{self._label}: column {name!r} has lists of many lengths, and cannot be kept")
                values[name] = column[numbers - start].astype(self._dtypes.get(name, column.dtype), copy=False)
        return {name: values[name] for name in self.names}

    def _take(self, source: Source | BatchSource, start: int, stop: int) -> Rows:
        """The rows `[start, stop)`, of a data set that is read in order those after the ones that were taken last."""
        if isinstance(source, Source):
            return rows_between(source, start, stop)
        if self._batches is None or start < self._at:
            self.close()
            self._batches = batches_of(source)
            self._waiting, self._at = Rebatcher(), start
            self._read = skip_rows(self._batches, start, self._label)
        while self._waiting.rows < stop - self._at:
            if (batch := next(self._read, None)) is None:
                raise InputError(f"{self._label}: had {stop} rows or more when it was read first, now fewer")
            self._waiting.add(batch)
        before = start - self._at
        taken, count = self._waiting.take(stop - self._at)
        self._at = stop
        return picked(taken, np.arange(before, count)) if before else taken

    def _joined(self, values: dict[str, Array], outputs: OutputTree, output_name: str) -> OutputTree:
        named = outputs if isinstance(outputs, dict) else {output_name or "output": outputs}
        if same := values.keys() & named.keys():
            raise UsageError(f"column {min(same)!r} cannot be kept: an output has this name; rename the column")
        return {**values, **named}


def _blocks(source: Source | BatchSource) -> Iterator[Rows]:
    """All rows but those that cannot be read."""
    for rows in map(odd_texts, _marked_blocks(source)):
        unfed = [*unfed_of(rows)]
        yield picked(rows, np.delete(np.arange(count_rows(rows)), unfed)) if unfed else rows


def _marked_blocks(source: Source | BatchSource) -> Iterator[Rows]:
    if isinstance(source, Source):
        rows = max(1, int(MAX_BATCH_BYTES / max(1.0, source.row_bytes)))
        for start in range(0, source.rows, rows):
            yield rows_between(source, start, min(start + rows, source.rows))
        return
    with closing(batches_of(source)) as batches:
        yield from batches
