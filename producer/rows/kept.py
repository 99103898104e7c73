"""Columns of the data set that stand beside the predictions of its rows, as ids and names do.

data set --read once more, of these columns alone--> values of the rows of a part --> beside its outputs
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np

from producer.rows.part import OutputTree, Part
from producer.rows.readers import batches_of, rows_between
from producer.rows.source import BatchSource, Source, splits_of, whole_table_of
from tasks.datasets.kept import Kept, kept_column
from tasks.datasets.marked import nulls_of
from tasks.datasets.rebatcher import Rebatcher, columns, count_rows, picked, skip_rows, values_at
from tasks.datasets.rows import MAX_BATCH_BYTES, Batches, Column, Rows
from tasks.protocol.codec import Array
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

    names: list[str]

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
        read, table = [name for name in self.names if name != ROW], whole_table_of(source)
        if read and (table is None or getattr(source, "once", False)):
            raise UsageError(
                f"{self._label}: has no columns by name to keep, or can be read only once; keep {ROW!r} alone"
            )
        self._paths = {PATH} if table is not None and PATH in table.others else set[str]()
        self._columns = read
        self._source = table.only(read) if table and read else None
        self._rows = _Rows(self._source) if self._source else None
        self._dtypes: dict[str, np.dtype[Any]] = {}

    def close(self) -> None:
        """Let go of the data set's files."""
        if self._rows:
            self._rows.close()

    def read_anywhere(self) -> Source | BatchSource | None:
        """The data set of the columns alone; of files that can be cut rows are taken from anywhere from now on."""
        if self._source and (splits := splits_of(self._source)):
            self.close()
            self._rows = _Rows(splits.open())
        return self._source

    def beside(self, part: Part, output_name: str = "") -> Part:
        """The part with the values of its rows beside its outputs; a single output gets its name, or "output".

        A column is a masked array where rows of the part have null in it.

        Raises:
            InputError: they cannot be read.
            UsageError: a column is called as an output is.
        """
        values = self._values(part.numbers(), part.start, part.stop)
        return replace(part, outputs=self._joined(values, part.outputs, output_name))

    def of_chunk(self, start: int, stop: int) -> Kept:
        """The values of the rows `[start, stop)`, to be sent with them; raises InputError as `beside`."""
        return self._values(np.arange(start, stop), start, stop)

    def beside_all(self, outputs: OutputTree, numbers: Array, output_name: str = "") -> OutputTree:
        """The same of all outputs of a job, which are those of these rows, in ascending order."""
        start, stop = (int(numbers[0]), int(numbers[-1]) + 1) if len(numbers) else (0, 0)
        return self._joined(self._values(numbers, start, stop), outputs, output_name)

    def fix_width(self) -> None:
        """Give text with a fixed width, that of the longest, for files of NumPy; reads all rows.

        Raises:
            InputError: one is null, for which these files have no place.
        """
        texts = {name: _Texts() for name in self._columns}
        first = 0
        for rows in self._rows.blocks() if self._rows else ():
            for name, missing in nulls_of(rows).items():
                if missing.any():
                    where = f"{self._label}: column {name!r}: row {first + np.argmax(missing)}"
                    raise InputError(
                        f"{where} is null, for which .npz has no place; keep it in .parquet, .jsonl or .csv"
                    )
            for name, column in self._of(rows).items():
                texts[name].add(column)
            first += count_rows(rows)
        self._dtypes = {name: dtype for name, one in texts.items() if (dtype := one.dtype())}

    def _values(self, numbers: Array, start: int, stop: int) -> dict[str, Array]:
        """The values of some of the rows `[start, stop)`."""
        rows = numbers if self._numbers is None else self._numbers[numbers]
        values: dict[str, Array] = {ROW: rows, **{name: np.empty(0, object) for name in self._columns}}
        if self._rows and start < stop:
            read = self._rows.take(start, stop, self._label)
            for name, column in self._of(read).items():
                missing = nulls_of(read).get(name, np.zeros(stop - start, np.bool_))
                where = f"{self._label}: column {name!r}"
                taken = values_at(column, numbers - start)
                kept = kept_column(taken, missing[numbers - start], rows, where)
                values[name] = kept.astype(self._dtypes.get(name, kept.dtype), copy=False)
        return {name: values[name] for name in self.names}

    def _of(self, rows: Rows) -> dict[str, Any]:
        """The columns of some rows; paths of files as texts, which those that are no UTF-8 are not as rows."""
        found: dict[str, Any] = dict(zip(self._columns, columns(rows), strict=True))
        for name in self._paths & found.keys():
            texts = [path_text(path) if isinstance(path, bytes) else path for path in found[name]]
            found[name] = np.array(texts, dtype=object)
        return found

    def _joined(self, values: dict[str, Array], outputs: OutputTree, output_name: str) -> OutputTree:
        named = outputs if isinstance(outputs, dict) else {output_name or "output": outputs}
        if same := values.keys() & named.keys():
            raise UsageError(f"column {min(same)!r} cannot be kept: an output has this name; rename one of them")
        return {**values, **named}


class _Texts:
    """The texts of a column: whether NumPy has them in a fixed width, without cutting zeros at their end."""

    def __init__(self) -> None:
        self._found = set[str]()
        self._width, self._is_cut = 1, False

    def add(self, column: Column) -> None:
        if not isinstance(column, list) and column.dtype.hasobject:
            texts = [value for value in column.flat if isinstance(value, str | bytes)]
            self._found |= {"U" if isinstance(value, str) else "S" for value in texts}
            self._is_cut |= len(texts) < column.size or any(text[-1:] in ("\0", b"\0") for text in texts)
            self._width = max([self._width, *map(len, texts)])

    def dtype(self) -> np.dtype[Any] | None:
        """That of the longest one; None where there are no texts, or NumPy would change them."""
        return np.dtype(f"{min(self._found)}{self._width}") if len(self._found) == 1 and not self._is_cut else None


class _Rows:
    """The rows of a data set, which are asked for in their order, or again from an earlier one."""

    def __init__(self, source: Source | BatchSource) -> None:
        self._source = source
        self._batches: Batches | None = None
        self._read: Iterator[Rows] = iter(())
        self._waiting = Rebatcher()
        self._at = 0

    def close(self) -> None:
        """Let go of the data set's files."""
        if self._batches is not None:
            self._batches.close()
            self._batches = None

    def take(self, start: int, stop: int, where: str) -> Rows:
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

    def blocks(self) -> Iterator[Rows]:
        """All of them, from the first one on."""
        if isinstance(self._source, Source):
            rows = max(1, int(MAX_BATCH_BYTES / max(1.0, self._source.row_bytes)))
            for start in range(0, self._source.rows, rows):
                yield rows_between(self._source, start, min(start + rows, self._source.rows))
            return
        with closing(batches_of(self._source)) as batches:
            yield from batches
