"""Rows --> lines of a CSV file, in order, after one of names: row,id,scores_0,scores_1.

`row` is the row of the data set. A vector is a column for each of its values, a matrix likewise: m_0_0, m_0_1. NaN is
`nan`, a truth value `true` or `false`; texts stand in quotes, bytes are base64. An output without a name is "output".
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from tasks.outputs.arrow import value_type
from tasks.outputs.row_spec import output_name
from tasks.outputs.temp_paths import OutputTarget
from tasks.outputs.writer import ROW, Arrays, LineWriter, Specs, title
from tasks.protocol.codec import Array, Key
from worker_config.errors import OutputError
from worker_config.foreign_errors import import_optional

# Of one output; programs that read CSV have limits of their own.
MOST_COLUMNS = 16_384


class CsvWriter(LineWriter):
    """Lines at the end of a file; a line that the journal does not know is cut off."""

    def __init__(self, target: OutputTarget) -> None:
        super().__init__(target)
        self._arrow = import_optional("pyarrow", "parquet", str(target.path))
        self._csv = import_optional("pyarrow.csv", "parquet", str(target.path))

    def begin(self, specs: Specs, first: Arrays) -> None:
        """Refuse what a line has no place for, and write the names."""
        self.check_no_row_column(specs)
        names = [ROW]
        for key, spec in specs.items():
            columns = math.prod(spec.shape)
            if spec.dtype.kind not in "OUS" and value_type(self._arrow, spec, first[key]) is None:
                raise self._refused(key, str(spec.dtype))
            if not 0 < columns <= MOST_COLUMNS:
                raise self._refused(key, f"rows of shape {spec.shape}, {columns:,} values each")
            name = self.name(key)
            names += ["_".join([name, *map(str, place)]) for place in np.ndindex(spec.shape)]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise OutputError(f"{self.target.path}: two columns would have the name {twice!r}; use .parquet")
        line = ",".join(_quoted(name) if set(name) & {",", '"', "\n", "\r"} else name for name in names)
        header = f"{line}\n".encode()
        if self.mends is not None:
            self.open_old(header)
        self.append(header)

    def write(self, start: int, arrays: Arrays, numbers: Array) -> None:
        """Write one line for each row."""
        columns: list[Any] = [numbers.astype(np.int64, copy=False)]
        for array in arrays.values():
            columns += list(array.reshape(len(array), math.prod(array.shape[1:])).T)
        stream = self._arrow.BufferOutputStream()
        try:
            table = self._arrow.table([self._column(column) for column in columns], list(map(str, range(len(columns)))))
        except (self._arrow.ArrowInvalid, self._arrow.ArrowTypeError, UnicodeEncodeError) as error:
            raise OutputError(
                f"{self.target.path}: {title(numbers)} have a value that is no CSV: {str(error).splitlines()[0]}; "
                "change it with a postprocess function"
            ) from error
        self._csv.write_csv(table, stream, self._csv.WriteOptions(include_header=False))
        self.append_rows(stream.getvalue().to_pybytes(), numbers)

    def lines(self, stream: Iterable[bytes]) -> Iterator[bytes]:
        """Text may have line breaks, within quotes."""
        whole = b""
        for line in stream:
            whole += line
            if whole.count(b'"') % 2 == 0:
                yield whole
                whole = b""
        if whole:
            yield whole

    def row_of(self, line: bytes) -> int:
        """Its first value."""
        return int(line.partition(b",")[0])

    def _column(self, column: Array) -> Any:
        if column.dtype.kind in "OUS":
            return self._arrow.array(list(map(_text, column.tolist())), self._arrow.string())
        native = column.astype(column.dtype.newbyteorder("="), order="C")
        return self._arrow.array(native.astype(np.float32) if native.dtype == np.float16 else native)

    def _refused(self, key: Key, what: str) -> OutputError:
        return OutputError(
            f"{self.target.path}: {output_name(key)} is {what}, for which CSV has no columns; use .npy or .npz, or "
            "change it with a postprocess function"
        )


def _text(value: object) -> object:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
