"""This module writes arrays by name as an `.npz` file, uncompressed; until the end each one is an `.npy` file.

The array of model `m` and output `o` is named "m/o"; an array without a name "arr_0", as NumPy names it.
"""

from __future__ import annotations

import os
import shutil
import zipfile
from pathlib import Path
from typing import IO

from producer.rows.part import Array
from producer.sinks.npy import Column, check_dtypes
from producer.sinks.temp_paths import Place, bytes_of, check_free
from producer.sinks.writer import Arrays, FileWriter, Specs
from tasks.protocol.trees import Key


class NpzWriter(FileWriter):
    """Arrays by name in an `.npz` file."""

    any_order = True
    can_drop = True
    nameless = "arr_0"
    label = "column"

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self._columns: dict[Key, Column] = {}
        self._files: dict[Key, IO[bytes]] = {}

    def begin(self, specs: Specs, first: Arrays) -> None:
        """Refuse what NumPy files cannot hold, and what the disk cannot."""
        check_dtypes(self.place.path, specs)
        self._check_free(specs)
        for key, path in self._paths(specs).items():
            self._files[key] = self.open(path, "wb+")
            self._columns[key] = Column(self._files[key], specs[key], self.place.rows)
            self._columns[key].begin()

    def reopen(self, specs: Specs, rows: int, mark: int) -> None:
        """Check that the rows are there; those after them are written again."""
        self.create()  # the copy into the zip file is made again
        for key, path in self._paths(specs).items():
            if self.is_dropped(key):
                continue
            self._files[key] = self.open(path, "rb+")
            self._columns[key] = Column(self._files[key], specs[key], self.place.rows)
            self._columns[key].reopen(self.place, rows)

    def write(self, start: int, arrays: Arrays, numbers: Array) -> None:
        """Write rows to their place."""
        for key, array in arrays.items():
            self._columns[key].write(start, array)

    def sync(self) -> int:
        """Give nothing: the number of rows tells where they end."""
        for file in self._files.values():
            os.fsync(file.fileno())
        return 0

    def finish(self, rows: int) -> None:
        """Copy the arrays into the zip file."""
        with zipfile.ZipFile(self.stream, "w", zipfile.ZIP_STORED) as archive:
            for key, file in self._files.items():
                if self.is_dropped(key):
                    continue
                self._columns[key].finish(rows)
                file.seek(0)
                with archive.open(f"{self.name(key)}.npy", "w", force_zip64=True) as member:
                    shutil.copyfileobj(file, member, 2**20)
                file.close()
                if not self.place.journalled:  # now, so that the disk need not hold everything twice
                    Path(file.name).unlink()
        self.stream.flush()
        super().finish(rows)

    def _paths(self, specs: Specs) -> dict[Key, Path]:
        return {key: self.place.temporary(f"{self.label}-{number}") for number, key in enumerate(specs)}

    def _check_free(self, specs: Specs) -> None:
        """The disk holds one array twice while it is copied; all of them where a failed copy must be repeatable."""
        if self.place.rows is not None:
            sizes = [bytes_of(spec, self.place.rows) for spec in specs.values()]
            check_free(self.place.path, sum(sizes) + (sum(sizes) if self.place.journalled else max(sizes)))
