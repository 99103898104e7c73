"""Rows --> arrays by name in an `.npz` file, uncompressed; until the end each one is an `.npy` file.

The array of model `m` and output `o` is named "m/o"; an array without a name "arr_0", as NumPy names it.
"""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

from tasks.outputs.npy import ColumnsWriter
from tasks.outputs.temp_paths import bytes_of, check_free
from tasks.outputs.writer import Specs
from tasks.protocol.codec import Key


class NpzWriter(ColumnsWriter):
    """Arrays by name in an `.npz` file."""

    can_drop = True
    nameless = "arr_0"
    label = "column"

    def paths(self, specs: Specs) -> dict[Key, Path]:
        """A numbered file for each array."""
        return {key: self.target.temporary(f"{self.label}-{number}") for number, key in enumerate(specs)}

    def check_room(self, specs: Specs) -> None:
        """The disk holds one array twice while it is copied; all of them where a failed copy must be repeatable."""
        if self.target.rows is not None:
            sizes = [bytes_of(spec, self.target.rows) for spec in specs.values()]
            needed = sum(sizes) + (sum(sizes) if self.target.journalled else max(sizes))
            check_free(self.target.path, needed, self.target.folder)

    def reopen(self, specs: Specs, rows: int, mark: int) -> None:
        """Check that the rows are there; the copy into the zip file is made again."""
        self.create()
        super().reopen(specs, rows, mark)

    def finish(self, rows: int) -> None:
        """Copy the arrays into the zip file."""
        with zipfile.ZipFile(self.stream, "w", zipfile.ZIP_STORED) as archive:
            for key, column in self.columns.items():
                if self.is_dropped(key):
                    continue
                column.finish(rows)
                column.stream.seek(0)
                with archive.open(f"{self.name(key)}.npy", "w", force_zip64=True) as member:
                    shutil.copyfileobj(column.stream, member, 2**20)
                column.stream.close()
                if not self.target.journalled:  # now, so that the disk need not hold everything twice
                    Path(column.stream.name).unlink()
        self.stream.flush()
        super().finish(rows)
