"""Which rows of an output of `.npy` files have fillers: as they have no place for marks, these are a file beside them.

parts, in order --add--> runs of rows --write_mask--> OUT.failed.npy
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from producer.rows.part import Part
from tasks.datasets.columns import runs_of
from tasks.outputs.failed_mask import MASK_SPEC
from tasks.outputs.npy import Column
from tasks.outputs.output_file import OutputFile
from worker_config.decodable import decodable

# Of those that are written at once.
_ROWS_AT_ONCE = 2**20


class FilledRows:
    """Of one output.

    Attributes:
        rows: of the output so far.
        runs: those of them that have fillers, as `[start, stop)`.
    """

    def __init__(self) -> None:
        self.rows: int = 0
        self.runs: list[tuple[int, int]] = []

    def load(self, notes: Iterable[dict[str, Any]]) -> None:
        """What the journal has of a former run."""
        form = decodable(list[tuple[int, int]])
        self.runs = [run for note in notes for run in msgspec.convert(note.get("filled", []), form)]

    def add(self, part: Part) -> list[dict[str, Any]]:
        """Take in the next part; what the journal is to know of it."""
        new = runs_of(self.rows + np.flatnonzero(part.failed_mask)) if part.failed else []
        self.rows += part.rows
        self.runs += new
        return [{"filled": new}] if new else []


def write_mask(path: Path, rows: int, runs: Iterable[tuple[int, int]]) -> None:
    """Write one boolean for each row, true for those of the runs, and bring it to the disk."""
    with OutputFile(path, "w") as stream:
        column = Column(stream, MASK_SPEC)
        column.finish(rows)  # all are false
        for start, stop in runs:
            for first in range(start, stop, _ROWS_AT_ONCE):
                column.write(first, np.ones(min(_ROWS_AT_ONCE, stop - first), np.bool_))
        stream.sync()
