"""Where an output is made before it has its name; what a disk refuses becomes one line."""

from __future__ import annotations

import glob
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tasks.outputs.row_spec import RowSpec
from worker_config.errors import NoSpaceError, OutputError
from worker_config.files import is_full, sync_file


@dataclass(frozen=True, slots=True)
class OutputTarget:
    """The final name of an output, and the names beside it that hold it until then.

    Attributes:
        path: the final name.
        rows: rows of the whole output; None where unknown.
        token: a random part of the temporary names; empty with a journal, so that the next run finds them.
        replaces: whether what has the name by then gives way.
    """

    path: Path
    rows: int | None
    token: str
    replaces: bool = True

    @property
    def folder(self) -> Path:
        """Where the temporary files are."""
        return self.path.parent

    @property
    def described(self) -> str:
        """For people, in errors of the disk."""
        return str(self.path)

    @property
    def journalled(self) -> bool:
        """Whether the temporary files outlive a run that does not end well."""
        return not self.token

    def temporary(self, label: str = "") -> Path:
        """Name a temporary file, beside the output so that it can take its name."""
        return self.placed("." + ".".join(filter(None, (self.path.name, self.token, label, "part"))))

    def placed(self, name: str) -> Path:
        """Where a temporary file of this name is."""
        return self.path.with_name(name)

    def temporaries(self, label: str) -> list[Path]:
        """Find the temporary files of this output whose label is `label` and a number."""
        named = glob.escape(self.temporary(label).name.removesuffix(".part"))
        return sorted(self.folder.glob(f"{named}-*.part"))

    def is_there(self) -> bool:
        """Whether something has the final name."""
        return self.path.exists()

    def check_replaceable(self) -> None:
        """Raise OutputError unless what has the final name is a file, which an output of one file may replace."""
        check_regular_file(self.path)

    def publish(self, file: Path, suffix: str = "") -> None:
        """Give a temporary file the final name, or, with a suffix, that of a file beside it."""
        file.replace(self.path.with_name(self.path.name + suffix))

    def clear(self) -> None:
        """Remove what was made for temporary files, when these are gone."""


def bytes_of(spec: RowSpec, rows: int) -> int:
    """How many bytes so many rows are in memory."""
    return rows * math.prod(spec.shape) * spec.dtype.itemsize


def check_free(path: Path, needed: int, folder: Path) -> None:
    """Raise OutputError unless the disk has so many bytes free; before the work, where the size is known.

    The output is made in `folder`, which a `path` that is none has not beside it.
    """
    disk, where = shutil.disk_usage(folder), "" if isinstance(path, Path) else f" of {folder}"
    if disk.total and needed > disk.free:  # a file system that does not know its size says 0
        raise OutputError(
            f"{path}: needs {needed / 2**20:.0f} MiB, the disk{where} has {disk.free / 2**20:.0f} MiB free; make room"
        )


def check_parent(path: Path) -> None:
    """Raise OutputError unless there is the folder of an output."""
    if not path.parent.is_dir():
        raise OutputError(f"{path}: there is no folder {path.parent}; make it first")


def check_regular_file(path: Path) -> None:
    """Raise OutputError unless what has the name of an output already is a file, which it may replace."""
    if path.is_dir():
        raise OutputError(f"{path}: is a folder; name a file in it")
    if not path.is_file():
        raise OutputError(f"{path}: exists and is not a regular file; choose another name")


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut; not every file system can, and the rows are safe without."""
    with suppress(OSError):
        sync_file(folder)


def not_continued(path: object, why: str) -> OutputError:
    """What a former run has left is of no use to this one."""
    return OutputError(f"{path}: cannot be continued: {why}; start over with --force instead of --resume")


@contextmanager
def one_line_errors(path: object) -> Iterator[None]:
    """Turn an OSError into an OutputError that names the output."""
    try:
        yield
    except OSError as error:
        cause = error.strerror or str(error)
        kind = NoSpaceError if is_full(error) else OutputError
        raise kind(f"{path}: cannot be written: {cause}; check the folder, the disk and its limits") from error
