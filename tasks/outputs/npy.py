"""Rows --> one array in an `.npy` file: at their place, and the header again at the end.

The mask of rows that failed is a file of its own beside it, which gets its name first.

Rows are written with `seek` and `write`, not through a memory map: a full disk is then an error, where a map kills
the process (SIGBUS), and the output's pages do not count as memory of the producer.
"""

from __future__ import annotations

import io
from abc import abstractmethod
from pathlib import Path
from typing import Any

import numpy as np

from tasks.outputs.failed_mask import MASK_SUFFIX, mask_path
from tasks.outputs.output_file import OutputFile
from tasks.outputs.row_spec import RowSpec, output_name
from tasks.outputs.temp_paths import OutputTarget, bytes_of, check_free
from tasks.outputs.writer import Arrays, FileWriter, Specs, check_length
from tasks.protocol.codec import Array, Key
from worker_config.errors import OutputError
from worker_config.files import escaped


class Column:
    """An array on disk."""

    def __init__(self, stream: OutputFile, spec: RowSpec) -> None:
        self.stream = stream
        self._spec = spec
        self._offset = len(_header(spec, 0))
        self._row_bytes = bytes_of(spec, 1)

    def reopen(self, target: OutputTarget, rows: int) -> None:
        """Make sure that so many rows are there; raises OutputError."""
        check_length(target, self.stream, self._offset + rows * self._row_bytes)

    def write(self, start: int, array: Array) -> None:
        """Write rows from `start` on."""
        self.stream.seek(self._offset + start * self._row_bytes)
        self.stream.write(np.ascontiguousarray(array).data)
        self.stream.flush()

    def finish(self, rows: int) -> None:
        """Tell the number of rows, and cut off what is beyond them."""
        self.stream.seek(0)
        self.stream.write(_header(self._spec, rows))
        self.stream.truncate(self._offset + rows * self._row_bytes)
        self.stream.flush()


class ColumnsWriter(FileWriter):
    """Arrays of which each one has an `.npy` file of its own until the end."""

    any_order = True

    def __init__(self, target: OutputTarget) -> None:
        super().__init__(target)
        self.columns: dict[Key, Column] = {}

    @abstractmethod
    def paths(self, specs: Specs) -> dict[Key, Path]:
        """Where each array is until the end."""

    @abstractmethod
    def check_room(self, specs: Specs) -> None:
        """Refuse more arrays than the format can hold, or than the disk can."""

    def begin(self, specs: Specs, first: Arrays) -> None:
        """Refuse what NumPy files cannot hold, and make room for the rows."""
        check_dtypes(self.target.path, specs)
        self.check_room(specs)
        for key, path in self.paths(specs).items():
            self.columns[key] = Column(self.open(path, "w"), specs[key])
            self.columns[key].finish(self.target.rows or 0)

    def reopen(self, specs: Specs, rows: int, mark: int) -> None:
        """Check that the rows are there; those after them are written again."""
        for key, path in self.paths(specs).items():
            if not self.is_dropped(key):
                self.columns[key] = Column(self.open(path, "r"), specs[key])
                self.columns[key].reopen(self.target, rows)

    def write(self, start: int, arrays: Arrays, numbers: Array) -> None:
        """Write rows to their place."""
        for key, array in arrays.items():
            self.columns[key].write(start, array)

    def sync(self) -> int:
        """Give nothing: the number of rows tells where they end."""
        for column in self.columns.values():
            column.stream.sync()
        return 0


class NpyWriter(ColumnsWriter):
    """One array in an `.npy` file."""

    holds_one = True

    @property
    def mask_name(self) -> str:
        """The file beside it."""
        return escaped(mask_path(self.target.path).name) if self.mask else ""

    def paths(self, specs: Specs) -> dict[Key, Path]:
        """The file that gets the final name, and that of the mask."""
        return {key: self._mask_path if key == self.mask else self.temporary for key in specs}

    def check_room(self, specs: Specs) -> None:
        """Refuse more than one output, and one that is too large."""
        outputs = {key: spec for key, spec in specs.items() if key != self.mask}
        if len(outputs) > 1:
            raise OutputError(
                f"{self.target.path}: one .npy file holds one array, but there are {len(outputs)} outputs: "
                f"{', '.join(map(self.name, outputs))}; use .npz"
            )
        if self.target.rows is not None:
            needed = sum(bytes_of(spec, self.target.rows) for spec in outputs.values())
            check_free(self.target.path, needed, self.target.folder)

    def finish(self, rows: int) -> None:
        """Complete the headers."""
        for column in self.columns.values():
            column.finish(rows)
        self.sync()
        self.close()

    def publish(self) -> None:
        """First the mask: no output is without the one that it should have."""
        if self.mask:
            self.target.publish(self._mask_path, MASK_SUFFIX)
        super().publish()

    @property
    def _mask_path(self) -> Path:
        return self.target.temporary(f"{self.label}-0")


def check_dtypes(path: Path, specs: dict[Key, RowSpec]) -> None:
    """Raise OutputError for what NumPy would pickle: strings."""
    for key, spec in specs.items():
        if spec.dtype.hasobject:
            raise OutputError(
                f"{path}: {output_name(key)} is strings, which NumPy files hold only as pickle; "
                "use .jsonl or .parquet, or make it numbers with a postprocess function"
            )


def _header(spec: RowSpec, rows: int) -> bytes:
    """NumPy pads it so that it has the same length for any number of rows."""
    header: dict[str, Any] = {
        "descr": np.lib.format.dtype_to_descr(spec.dtype),
        "fortran_order": False,
        "shape": (rows, *spec.shape),
    }
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue()
