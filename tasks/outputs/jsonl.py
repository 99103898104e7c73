"""Rows --> a JSON object each, in order: {"row": 17, "scores": [0.25, 0.5], "m/label": "cat"}.

`row` is the row of the data set. Numbers are exact: a float has as many digits as bring back the same double. JSON has
no NaN and no infinities: each of them is null. Bytes are base64. An output without a name is "output".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
import numpy as np

from tasks.outputs.row_spec import output_name
from tasks.outputs.writer import ROW, Arrays, LineWriter, Specs, title
from tasks.protocol.codec import Array
from worker_config.decodable import decodable
from worker_config.errors import OutputError


class _Numbered(msgspec.Struct):
    row: int


_NUMBERED = msgspec.json.Decoder(decodable(_Numbered))


class JsonLinesWriter(LineWriter):
    """Lines at the end of a file; a line that the journal does not know is cut off."""

    widens = False
    _first_old = b""

    def begin(self, specs: Specs, first: Arrays) -> None:
        """Refuse what JSON has no word for."""
        self.check_no_row_column(specs)
        for key, spec in specs.items():
            if spec.dtype.isbuiltin != 2 and (spec.dtype.kind not in "biufUSO" or spec.dtype.str[1:] == "f16"):
                raise OutputError(
                    f"{self.target.path}: {output_name(key)} is {spec.dtype}, which JSON cannot hold; use .npy or .npz"
                )
        if self.mends is not None:
            self._first_old = self.open_old()

    def write(self, start: int, arrays: Arrays, numbers: Array) -> None:
        """Write one line for each row."""
        names = [ROW, *map(self.name, arrays)]
        columns = [_values(array) for array in arrays.values()]
        rows = zip(numbers.tolist(), *columns, strict=True)
        try:
            lines = msgspec.json.Encoder().encode_lines([dict(zip(names, row, strict=True)) for row in rows])
        except (TypeError, UnicodeEncodeError) as error:
            raise OutputError(
                f"{self.target.path}: {title(numbers)} have a value that is no JSON: {error}; "
                "change it with a postprocess function"
            ) from error
        if lines and self._first_old:
            if _form(self._first_old) != _form(lines.partition(b"\n")[0]):
                raise self.unfitting()
            self._first_old = b""
        self.append_rows(lines, numbers)

    def lines(self, stream: Iterable[bytes]) -> Iterator[bytes]:
        """A text has no line breaks."""
        return iter(stream)

    def row_of(self, line: bytes) -> int:
        """Its first value."""
        return _NUMBERED.decode(line).row


def _form(line: bytes) -> object:
    """The names and shapes of a row's outputs."""
    return _without_values(msgspec.json.decode(line))


def _without_values(value: Any) -> object:
    if isinstance(value, dict):
        return {name: _without_values(below) for name, below in value.items()}
    return [_without_values(below) for below in value] if isinstance(value, list) else None


def _values(array: Array) -> list[Any]:
    """Give Python's own values, row by row; the encoder makes null of what is not finite."""
    if array.dtype.isbuiltin == 2:  # bfloat16, int4 and the like
        array = array.astype(np.int64 if "int" in array.dtype.name else np.float64)
    values: list[Any] = array.tolist()
    return values
