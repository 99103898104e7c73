"""What workers have left of an output's rows, and which of it waits to become a file.

parts of a job, in order --add--> PartFiles --take--> those of one file        notes: what a journal must know of it
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import msgspec
import numpy as np

from producer.rows.part import Part, StoredPart
from tasks.datasets.columns import runs_of
from tasks.outputs.part_files import write_part
from tasks.outputs.parts import PartFile, encoded
from tasks.outputs.writer import Arrays
from tasks.protocol.codec import leaves_of
from tasks.protocol.messages import OutputSpec, to_plain
from tasks.transport.output_folder import open_output_folder
from worker_config.decodable import decodable


class FileRows(NamedTuple):
    """What becomes one file: so many `rows` of these parts, of the first of which earlier files have `first_row`."""

    parts: list[PartFile]
    first_row: int
    rows: int

    @property
    def merged(self) -> list[PartFile]:
        """Parts of which no row is left for another file."""
        is_whole = sum(part.rows for part in self.parts) == self.first_row + self.rows
        return self.parts if is_whole else self.parts[:-1]

    @property
    def stop(self) -> int:
        """The row of the data set that the next file begins with; of a part in both, its first one."""
        is_whole = len(self.merged) == len(self.parts)
        return self.parts[-1].stop if is_whole else self.parts[-1].start


class PendingParts:
    """The parts of one output.

    Attributes:
        outputs, kept: what they hold, as far as it is known.
        bytes: of those that wait.
        notes: what the journal does not know.
    """

    def __init__(self) -> None:
        self.outputs: list[OutputSpec] = []
        self.kept: list[OutputSpec] = []
        self.bytes: int = 0
        self.notes: list[dict[str, Any]] = []
        self._waiting: list[PartFile] = []
        self._merged_rows = 0  # of the first part that waits

    def __bool__(self) -> bool:
        return bool(self._waiting)

    @property
    def rows(self) -> int:
        """Of those that wait."""
        return sum(part.rows for part in self._waiting) - self._merged_rows

    @property
    def is_decided(self) -> bool:
        """Whether it is known what all of them hold, which rows that all failed do not tell, nor texts without any."""
        return bool(self.outputs) and all(one.holds for one in (*self.outputs, *self.kept) if one.dtype == "object")

    def load(self, notes: list[dict[str, Any]], merged: int, merged_rows: int) -> None:
        """What a journal knows; parts before the row `merged`, and so many rows of the output, are in files already."""
        parts: list[PartFile] = []
        for note in notes:
            self.outputs = msgspec.convert(note.get("outputs", self.outputs), decodable(list[OutputSpec]))
            self.kept = msgspec.convert(note.get("kept", self.kept), decodable(list[OutputSpec]))
            parts += msgspec.convert(note.get("parts", []), decodable(list[PartFile]))
        self._waiting = [part for part in parts if part.stop > merged or part.start >= merged]
        self.bytes = sum(part.bytes for part in self._waiting)
        self._merged_rows = merged_rows - sum(part.rows for part in parts[: len(parts) - len(self._waiting)])

    def files(self) -> dict[str, int]:
        """The files that wait, and their sizes."""
        return {one.name: one.bytes for one in self._waiting if one.name}

    def add(self, part: Part, folder: Callable[[], str]) -> None:
        """Note the file that has the rows of a part; one that no worker has written is written here."""
        stored = part.stored
        if stored is None or (stored.ref is None and part.rows and part.outputs):
            stored = _written(part, folder())
        if (ref := stored.ref) is not None:
            self._learn("outputs", ref.outputs or self.outputs)
            self._learn("kept", ref.kept)
            new = [PartFile(ref.name, part.start, part.stop, ref.bytes, stored.checksum, ref.rows)]
        else:
            new = list(_blank(part))
        self._waiting += new
        self.notes.append({"parts": [msgspec.to_builtins(one) for one in new]})
        self.bytes += sum(one.bytes for one in new)

    def take(self, block_rows: int, *, at_end: bool = False) -> FileRows | None:
        """What waits, which does so no longer, but for rows that are no whole block; None if there is no whole one."""
        rows = self.rows
        if not at_end and block_rows > 1:
            rows -= rows % block_rows
            if not rows:
                return None
        first_row, until = self._merged_rows, self._merged_rows + rows
        ends = [0, *accumulate(part.rows for part in self._waiting)]
        whole = bisect_right(ends, until) - 1  # parts of which no row is left
        taken = FileRows(self._waiting[: whole + (ends[whole] < until)], first_row, rows)
        self._waiting, self._merged_rows = self._waiting[whole:], until - ends[whole]
        self.bytes = sum(part.bytes for part in self._waiting)
        return taken

    def _learn(self, name: str, specs: Sequence[OutputSpec]) -> None:
        """Of no texts nobody knows what they hold, until some come."""
        before: list[OutputSpec] = getattr(self, name)
        known = {one.key: one for one in before}
        now = [known[one.key] if one.key in known and known[one.key].holds else one for one in specs]
        if now != before:
            setattr(self, name, now)
            self.notes.append({name: [to_plain(one) for one in now]})


def _written(part: Part, folder: str) -> StoredPart:
    """The file of a part that came with its outputs; or, of rows that all failed, with what stands beside fillers."""
    arrays: Arrays = dict(leaves_of(part.outputs))
    outputs, kept = (arrays, {}) if part.stored is None else ({}, arrays)
    with open_output_folder(folder, [folder]) as opened:
        runs = np.array(runs_of(part.numbers()), np.int64).reshape(-1, 2)
        made = encoded(runs, part.failed_mask, outputs, kept)
        return StoredPart(*write_part(opened, part.start, part.stop, made))


def _blank(part: Part) -> Iterator[PartFile]:
    """Rows without a file: runs of those that are filled, or all of them, where they are left out."""
    if not part.rows:
        yield PartFile(None, part.start, part.stop, 0, 0, 0)
        return
    at = part.start
    for start, stop in (*part.dropped, (part.stop, part.stop)):
        if start > at:
            yield PartFile(None, at, start, 0, 0, start - at)
        if stop > start:
            yield PartFile(None, start, stop, 0, 0, 0)
        at = stop
