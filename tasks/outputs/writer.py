"""What every format is to a `Sink`: a `Writer`, which puts rows in order into temporary files.

    create --> begin --> write ... --> finish --> publish          a fresh output
    reopen ------------> write ... --> finish --> publish          one that a former run began

`sync` may come after any `write`; `close` and `remove` at any time, and more than once.
An OSError or a CeleriacError that leaves any of these reaches the caller as one line.
"""

from __future__ import annotations

import io
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, ClassVar, Literal, TypeAlias

from tasks.outputs.failed_mask import MASK_SPEC, free_name
from tasks.outputs.output_file import OutputFile
from tasks.outputs.row_spec import RowSpec
from tasks.outputs.temp_paths import OutputTarget, not_continued
from tasks.protocol.codec import Array, Key
from worker_config.errors import OutputError
from worker_config.foreign_errors import UNDECODABLE

# The column, or name, that says which row of the data set it is.
ROW = "row"
# Of lines that stay, about so many are copied at once.
_COPIED_BYTES = 2**20

Specs: TypeAlias = dict[Key, RowSpec]
Arrays: TypeAlias = dict[Key, Array]


class Writer(ABC):
    """One output of one format; `temporary` is what gets the final name.

    Attributes:
        any_order: whether rows may come in any order, where their number is known and nobody keeps a journal.
        can_drop: whether a model's outputs have places of their own, so that they can be taken out of rows written.
        widens: whether it holds NumPy's own dtypes alone, so that bfloat16 and the like come as the next of these.
        nameless: the name in the file of an output without one.
        holds_one: whether an output that is alone has no name in the file, whatever the model calls it.
        label: what the names of further temporary files begin with.
        dropped: models whose outputs are not in the finished output; what there is of them stays until then.
        mask: the key of the booleans that mark rows which failed, if they are marked; they come as an output does.
        mends: how many rows the output has that is to be replaced, where a writer of lines takes over those that stay.
        block_rows: what `whole_rows` gave for the whole output, of which this is a file; 0 where it is all of it.
    """

    any_order: ClassVar[bool] = False
    can_drop: ClassVar[bool] = False
    widens: ClassVar[bool] = True
    nameless: ClassVar[str] = "output"
    holds_one: bool = False
    label: ClassVar[str] = "rows"

    def __init__(self, target: OutputTarget) -> None:
        self.target = target
        self.temporary = target.temporary()
        self.dropped: set[str] = set()
        self.mask: Key | None = None
        self.mends: int | None = None
        self.block_rows = 0

    def name(self, key: Key) -> str:
        """Give the name of an output in the file."""
        return "/".join(key) or self.nameless

    def named(self, key: Key, output_name: str) -> Key:
        """The key of an output in the file: one that is alone has the name that the model gives it, if any."""
        return (output_name,) if not (key or self.holds_one or output_name in ("", ROW)) else key

    def check_names(self, specs: Specs) -> None:
        """Raise OutputError where two outputs would have one name."""
        names = [self.name(key) for key in specs]
        if len(set(names)) < len(names):
            raise OutputError(
                f"{self.target.path}: two outputs would have the same name in the file: {', '.join(names)}"
            )

    def check_no_row_column(self, specs: Specs) -> None:
        """Raise OutputError where an output has the name of the column that has the rows' numbers."""
        if ROW in map(self.name, specs):
            raise OutputError(f"{self.target.path}: an output is named 'row', as is the row's number; rename it")

    def add_mask(self, specs: Specs) -> None:
        """Mark rows that failed, beside these outputs: before `begin` or `reopen`."""
        self.mask = (free_name(name for key in specs for name in (self.name(key), *key[:1])),)

    def with_mask(self, specs: Specs) -> Specs:
        """The outputs, and the mask if there is one."""
        return {**specs, self.mask: MASK_SPEC} if self.mask else specs

    @property
    def mask_name(self) -> str:
        """Where people find the mask; empty where there is none."""
        return self.name(self.mask) if self.mask else ""

    def is_there(self) -> bool:
        """Whether something has the final name."""
        return self.target.is_there()

    def check_replaceable(self) -> None:
        """Raise OutputError unless what has the final name already is an output of this kind."""
        self.target.check_replaceable()

    @abstractmethod
    def create(self) -> None:
        """Make the temporary file, so that what cannot be written is found before the work."""

    @abstractmethod
    def begin(self, specs: Specs, first: Arrays) -> None:
        """Make room for outputs of this layout; `first` are the arrays of the first part, not written yet."""

    def whole_rows(self, specs: Specs, rows: int | None) -> int:
        """Where an output of so many rows is many files, each but the last has a multiple of this."""
        return 1

    def drop(self, model: str) -> None:
        """Take a model's outputs out: before `reopen`, or at any time before `finish`."""
        self.dropped.add(model)

    def is_dropped(self, key: Key) -> bool:
        """Whether an output is of a model that was dropped."""
        return not self.dropped.isdisjoint(key[:1])

    @abstractmethod
    def reopen(self, specs: Specs, rows: int, mark: int) -> None:
        """Continue after so many rows; `mark` is what `sync` gave then, `specs` are those of `begin`.

        Raises:
            FileNotFoundError: the temporary file is gone.
            OutputError: it is not what the journal says.
        """

    @abstractmethod
    def write(self, start: int, arrays: Arrays, numbers: Array) -> None:
        """Take rows, to the place `start`, and hand them to the system before long; nothing of `arrays` is held.

        `numbers` says which rows of the data set they are: more than their places, where earlier ones are left out.
        """

    @abstractmethod
    def sync(self) -> int:
        """Bring the rows to the disk, and give the number that `reopen` will need."""

    @abstractmethod
    def finish(self, rows: int) -> None:
        """Complete the temporary file, which has so many rows in all, and bring it to the disk.

        They may be fewer than were announced, and are never more.
        """

    def publish(self) -> None:
        """Give the output its final name."""
        self.target.publish(self.temporary)

    def published_bytes(self) -> int:
        """How many the rows take that have their final name."""
        return self.target.path.lstat().st_size

    @abstractmethod
    def close(self) -> None:
        """Let go of every file."""

    def remove(self) -> None:
        """Remove every temporary file."""
        for path in (self.temporary, *self.target.temporaries(self.label)):
            with suppress(OSError):
                path.unlink(missing_ok=True)
        self.target.clear()


class FileWriter(Writer):
    """A writer whose rows go into one file, `rows_path`, as they come."""

    def __init__(self, target: OutputTarget) -> None:
        super().__init__(target)
        self.rows_path = self.temporary
        self.stream: OutputFile
        self.end = 0
        self._opened: list[IO[bytes]] = []

    def create(self) -> None:
        """Make the file; with the usual mode, not a private one."""
        self.stream = self.open(self.rows_path, "w" if self.target.journalled else "x")

    def reopen(self, specs: Specs, rows: int, mark: int) -> None:
        """Cut off what the journal does not know."""
        self.stream = self.open(self.rows_path, "r")
        check_length(self.target, self.stream, mark)
        self.stream.truncate(mark)
        self.end = mark

    def open(self, path: Path, mode: Literal["w", "x", "r"]) -> OutputFile:
        """Open a file for writing and reading that `close` will close."""
        stream = OutputFile(path, mode)
        self._opened.append(stream)
        return stream

    def append(self, data: bytes | bytearray | memoryview) -> None:
        """Write at the end; bytes of a write that failed do not count."""
        self.stream.seek(self.end)
        self.stream.write(data)
        self.stream.flush()
        self.end += len(data)

    def sync(self) -> int:
        """Give the bytes that the rows take."""
        self.stream.sync()
        return self.end

    def finish(self, rows: int) -> None:
        """Nothing is missing."""
        self.stream.sync()
        self.close()

    def close(self) -> None:
        """Close every file; what could not be flushed is not wanted any more."""
        for stream in self._opened:
            with suppress(OSError):
                stream.close()


class LineWriter(FileWriter):
    """A writer of a line for each row, with the row's number.

    Where it mends the output that has the final name, the lines of that stay to the byte, but for those of rows that
    are written now.
    """

    def __init__(self, target: OutputTarget) -> None:
        super().__init__(target)
        self._old: Iterator[tuple[int, bytes]] = iter(())
        self._next: tuple[int, bytes] | None = None
        self._old_rows = 0

    @abstractmethod
    def lines(self, stream: Iterable[bytes]) -> Iterator[bytes]:
        """Give the lines of rows, one by one, from those of a file."""

    @abstractmethod
    def row_of(self, line: bytes) -> int:
        """Give the number of a line's row, or raise one of `UNDECODABLE` or ValueError."""

    def open_old(self, header: bytes = b"") -> bytes:
        """Open the output that is mended, which must begin so, and give the line of its first row."""
        stream = self.target.path.open("rb")
        self._opened.append(stream)
        if stream.read(len(header)) != header:
            raise self.unfitting()
        self._old = self._numbered(stream)
        self._next = next(self._old, None)
        return self._next[1] if self._next else b""

    def append_rows(self, data: bytes, numbers: Array) -> None:
        """Write the lines of these rows; where it mends, after those before them that stay."""
        if self.mends is None:
            self.append(data)
            return
        for row, line in zip(numbers.tolist(), self.lines(io.BytesIO(data)), strict=True):
            self._copy(row)
            self.append(line)

    def finish(self, rows: int) -> None:
        """Where it mends, write the lines that stay after all others first."""
        if self.mends is not None:
            self._copy(sys.maxsize)
            if self._old_rows != self.mends:
                raise other_rows(self.target.path, self._old_rows, self.mends)
        super().finish(rows)

    def unfitting(self) -> OutputError:
        """Rows that were predicted now have other outputs than those before."""
        return OutputError(
            f"{self.target.path}: the rows that were predicted now do not fit it: their outputs have other names or "
            "shapes; predict all rows again with --force"
        )

    def _copy(self, until: int) -> None:
        """Write the lines that stay, of rows before this one; a line of this row itself does not."""
        staying = bytearray()
        while self._next and self._next[0] <= until:
            if self._next[0] < until:
                staying += self._next[1]
            if len(staying) >= _COPIED_BYTES:
                self.append(staying)
                staying.clear()
            self._next = next(self._old, None)
        self.append(staying)

    def _numbered(self, stream: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
        last = -1
        for line in self.lines(stream):
            try:
                row = self.row_of(line)
            except (ValueError, *UNDECODABLE):
                row = last
            if row <= last or not line.endswith(b"\n"):
                raise OutputError(
                    f"{self.target.path}: row {self._old_rows} of the file is not as it was written; predict all rows "
                    "again with --force"
                )
            last = row
            self._old_rows += 1
            yield row, line


def other_rows(path: Path, rows: int, said: int) -> OutputError:
    """An output that is mended is not the one that was written."""
    return OutputError(f"{path}: has {rows} rows, the file beside it says {said}; predict all rows again with --force")


def check_length(target: OutputTarget, stream: IO[bytes], least: int) -> None:
    """Raise OutputError where a temporary file is shorter than the journal says."""
    length = os.fstat(stream.fileno()).st_size
    if length < least:
        raise not_continued(target.path, f"{stream.name} has {length} bytes, its journal says {least}")


def title(numbers: Array) -> str:
    """Rows of the data set, for people."""
    return f"rows {numbers[0]}-{numbers[-1] + 1}" if len(numbers) else "no rows"
