"""What every format is to a `Sink`: a `Writer`, which puts rows in order into temporary files.

    create --> begin --> write ... --> finish --> publish          a fresh output
    reopen ------------> write ... --> finish --> publish          one that a former run began

`sync` may come after any `write`; `close` and `remove` at any time, and more than once.
An OSError or a CeleriacError that leaves any of these reaches the caller as one line.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from typing import IO, ClassVar, Literal, TypeAlias

from producer.rows.part import Array, RowSpec
from producer.sinks.failed_mask import MASK_SPEC, free_name
from producer.sinks.temp_paths import OutputTarget, check_regular_file, not_continued
from tasks.protocol.codec import Key
from worker_config.errors import OutputError

# The column, or name, that says which row of the data set it is.
ROW = "row"

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
    """

    any_order: ClassVar[bool] = False
    can_drop: ClassVar[bool] = False
    widens: ClassVar[bool] = True
    nameless: ClassVar[str] = "output"
    holds_one: ClassVar[bool] = False
    label: ClassVar[str] = "rows"

    def __init__(self, target: OutputTarget) -> None:
        self.target = target
        self.temporary = target.temporary()
        self.dropped: set[str] = set()
        self.mask: Key | None = None

    def name(self, key: Key) -> str:
        """Give the name of an output in the file."""
        return "/".join(key) or self.nameless

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

    def check_replaceable(self) -> None:
        """Raise OutputError unless what has the final name already is an output of this kind."""
        check_regular_file(self.target.path)

    @abstractmethod
    def create(self) -> None:
        """Make the temporary file, so that what cannot be written is found before the work."""

    @abstractmethod
    def begin(self, specs: Specs, first: Arrays) -> None:
        """Make room for outputs of this layout; `first` are the arrays of the first part, not written yet."""

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
        """Hand rows to the system, to the place `start`; complete, or as if it had not been called.

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
        self.temporary.replace(self.target.path)

    @abstractmethod
    def close(self) -> None:
        """Let go of every file."""

    def remove(self) -> None:
        """Remove every temporary file."""
        for path in (self.temporary, *self.target.temporaries(self.label)):
            with suppress(OSError):
                path.unlink(missing_ok=True)


class FileWriter(Writer):
    """A writer whose rows go into one file, `rows_path`, as they come."""

    def __init__(self, target: OutputTarget) -> None:
        super().__init__(target)
        self.rows_path = self.temporary
        self.stream: IO[bytes]
        self.end = 0
        self._opened: list[IO[bytes]] = []

    def create(self) -> None:
        """Make the file; with the usual mode, not a private one."""
        self.stream = self.open(self.rows_path, "wb+" if self.target.journalled else "xb+")

    def reopen(self, specs: Specs, rows: int, mark: int) -> None:
        """Cut off what the journal does not know."""
        self.stream = self.open(self.rows_path, "rb+")
        check_length(self.target, self.stream, mark)
        self.stream.truncate(mark)
        self.end = mark

    def open(self, path: Path, mode: Literal["wb+", "xb+", "rb+"]) -> IO[bytes]:
        """Open a file that `close` will close."""
        stream = path.open(mode)
        self._opened.append(stream)
        return stream

    def append(self, data: bytes | memoryview) -> None:
        """Write at the end; bytes of a write that failed do not count."""
        self.stream.seek(self.end)
        self.stream.write(data)
        self.stream.flush()
        self.end += len(data)

    def sync(self) -> int:
        """Give the bytes that the rows take."""
        os.fsync(self.stream.fileno())
        return self.end

    def finish(self, rows: int) -> None:
        """Nothing is missing."""
        os.fsync(self.stream.fileno())
        self.close()

    def close(self) -> None:
        """Close every file; what could not be flushed is not wanted any more."""
        for stream in self._opened:
            with suppress(OSError):
                stream.close()


def check_length(target: OutputTarget, stream: IO[bytes], least: int) -> None:
    """Raise OutputError where a temporary file is shorter than the journal says."""
    length = os.fstat(stream.fileno()).st_size
    if length < least:
        raise not_continued(target.path, f"{stream.name} has {length} bytes, its journal says {least}")


def title(numbers: Array) -> str:
    """Rows of the data set, for people."""
    return f"rows {numbers[0]}-{numbers[-1] + 1}" if len(numbers) else "no rows"
