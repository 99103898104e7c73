"""One open file as the reader of its format: where reading for a row begins, and batches from there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import BinaryIO

from tasks.datasets.rows import Batches
from tasks.protocol.split_ref import FileSpan
from tasks.storage.object_file import fetch_ranges


class FormatReader(ABC):
    """One open file; this one keeps nothing open besides, and cannot tell which bytes rows have."""

    def anchor(self, span: FileSpan) -> int:
        """The row at which reading begins, for the first row of the span to be read."""
        return span.start

    @abstractmethod
    def batches(self, span: FileSpan) -> Batches:
        """Rows from the anchor on, some MiB at a time, at least those of the span; what cannot be fed is marked."""

    def ranges(self, span: FileSpan) -> Iterable[tuple[int, int]]:
        """The bytes `[start, stop)` of the file that reading the span takes, as far as that is known."""
        return ()

    def close(self) -> None:  # noqa: B027 - most keep nothing open
        """Let go of what is open besides the file."""


class BlockReader(FormatReader):
    """Of a file whose rows are read by the blocks that spans name; without one, all of it is a block."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def anchor(self, span: FileSpan) -> int:
        """The first row of the span's block."""
        return span.block[0] if span.block else 0

    def ranges(self, span: FileSpan) -> list[tuple[int, int]]:
        """Those of the span's block."""
        return [span.block[1:]] if span.block else []

    def _block(self, span: FileSpan) -> tuple[int, int, int]:
        """The first row of the span's block and its bytes, at which the file then stands."""
        row, begin, end = span.block or (0, 0, self._file.seek(0, 2))
        fetch_ranges(self._file, self.ranges(span))
        self._file.seek(begin)
        return row, begin, end
