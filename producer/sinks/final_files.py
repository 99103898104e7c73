"""What an output that is a folder has under its name, in order, each file at once; and what is told of it.

merged files, which the journal knows --FinalFiles.put--> OUT, of which any prefix is the output's
OUT.manifest.json, beside it: which of them count, and whether that is all
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from producer.sinks.output_place import OutputPlace
from tasks.outputs.temp_paths import not_continued
from worker_config.decodable import decodable
from worker_config.errors import OutputError
from worker_config.foreign_errors import UNDECODABLE, one_line

# After the name of the output.
MANIFEST = ".manifest.json"
_NUMBERED = re.compile(r"part-\d{5,}\.\w+")


class MergedFile(msgspec.Struct, frozen=True):
    """A file of the output: rows `[start, stop)` of the data set; `name` is that of the attempt that made it.

    Where files end within parts, of a part that is in two of them the first row counts for both.
    """

    name: str
    start: int
    stop: int
    rows: int
    bytes: int


class Manifest(msgspec.Struct, frozen=True):
    """The files of an output in their order, of which each has the rows after the one before.

    Of a Zarr store there are none, as its metadata say what it has; `rows` are those that all arrays have.
    """

    complete: bool
    rows: int
    files: list[MergedFile]
    format: int = 1


class FinalFiles(ABC):
    """What has an output's name.

    Attributes:
        path: that name.
        placed: how many merged files are at their place.
        replaces: whether another output has the name, until all files of this one are there.
    """

    placed: int
    replaces: bool

    def __init__(self, path: Path, place: OutputPlace) -> None:
        self.path = path
        self.placed = 0
        self.replaces = False
        self._place = place

    @abstractmethod
    def check_replaceable(self) -> None:
        """Raise OutputError unless what has the name is such an output."""

    def create(self) -> None:
        """Look whether another output has the name."""
        self.replaces = bool(self._place.named())

    def reopen(self, files: Sequence[MergedFile], token: str, written: Mapping[str, int]) -> None:
        """Look for these files, of which those that are `written` have no place yet; raises OutputError."""
        named = self._place.named()
        for number, file in enumerate(files):
            if file.name in written:
                break
            if not self.has(number, files, named):
                raise not_continued(self.path, f"{self.title(number)} is gone, or another file")
            self.placed = number + 1
        for file in files[self.placed :]:
            if not self.waits(file, written):
                raise not_continued(self.path, f"{self._place.folder(token)}/{file.name} is gone, or cut short")

    @abstractmethod
    def title(self, number: int) -> str:
        """A file at its place, for people."""

    @abstractmethod
    def has(self, number: int, files: Sequence[MergedFile], named: Mapping[str, int]) -> bool:
        """Whether a file is at its place, where these names have so many bytes."""

    @abstractmethod
    def waits(self, file: MergedFile, written: Mapping[str, int]) -> bool:
        """Whether a file without a place is among those that workers have written, as it was."""

    @abstractmethod
    def put(self, files: Sequence[MergedFile], token: str) -> None:
        """Put those into their places that have none yet, in order; again from anywhere, where it raised."""

    @abstractmethod
    def publish(self, files: Sequence[MergedFile], token: str) -> None:
        """Put what has no place yet, which is all where another output is replaced, as no more will come."""

    @abstractmethod
    def take_back(self) -> None:
        """Remove all that was put."""

    def told(self, files: Sequence[MergedFile]) -> list[MergedFile]:
        """Those that have a place, under the names that they have there; none where a reader does not look at files."""
        return []


class NumberedFiles(FinalFiles):
    """Files of one format, numbered from zero."""

    placed: int

    def check_replaceable(self) -> None:
        """Nothing but files of such an output is ever removed."""
        if other := sorted(name for name in self._place.named() if not is_file_name(name)):
            raise OutputError(
                f"{self.path}: has files that are not of such an output ({other[0]}); choose another name"
            )

    def title(self, number: int) -> str:
        """Its name."""
        return file_name(self.path.suffix.lower(), number)

    def has(self, number: int, files: Sequence[MergedFile], named: Mapping[str, int]) -> bool:
        """Whether it is there, and as large as it was."""
        return named.get(self.title(number)) == files[number].bytes

    def waits(self, file: MergedFile, written: Mapping[str, int]) -> bool:
        """As large as it was."""
        return written.get(file.name) == file.bytes

    def put(self, files: Sequence[MergedFile], token: str) -> None:
        """Give them their names."""
        names = [file.name for file in files[self.placed :]]
        for number in range(self.placed, len(files)):
            self._place.name(token, files[number].name, self.title(number), files[number].bytes)
            self.placed = number + 1
        self._place.end_names(token, names)

    def publish(self, files: Sequence[MergedFile], token: str) -> None:
        """Old files go before the first new one comes."""
        if self.replaces:
            ours = {self.title(number) for number in range(self.placed)}
            old = [name for name in self._place.named() if is_file_name(name) and name not in ours]
            self._place.remove_named(sorted(old, reverse=True))
        self.put(files, token)

    def take_back(self) -> None:
        """The last one first."""
        self._place.remove_named([self.title(number) for number in reversed(range(self.placed))])

    def told(self, files: Sequence[MergedFile]) -> list[MergedFile]:
        """All that have a place."""
        return [
            msgspec.structs.replace(file, name=self.title(number)) for number, file in enumerate(files[: self.placed])
        ]


def file_name(suffix: str, number: int) -> str:
    """Name a file of an output, from zero on."""
    return f"part-{number:05d}{suffix}"


def is_file_name(name: str) -> bool:
    """Whether a file of an output may have this name."""
    return bool(_NUMBERED.fullmatch(name))


def manifest_path(folder: Path) -> Path:
    """Name the manifest of an output."""
    return folder.with_name(folder.name + MANIFEST)


def files_in(folder: Path) -> list[Path]:
    """The files of an output that are there."""
    return sorted(path for path in folder.iterdir() if is_file_name(path.name))


def read_manifest(folder: Path) -> list[MergedFile]:
    """The files of an output that is complete; OutputError where it is not, or has other files than these."""
    try:
        manifest = msgspec.json.decode(manifest_path(folder).read_bytes(), type=decodable(Manifest))
    except (OSError, *UNDECODABLE) as error:
        cause = error.strerror if isinstance(error, OSError) else one_line(error)
        raise OutputError(
            f"{folder}: which files it has is not known: {manifest_path(folder).name}: {cause}; predict all rows again "
            "with --force"
        ) from error
    suffix = folder.suffix.lower()
    if [file.name for file in manifest.files] != [file_name(suffix, at) for at in range(len(manifest.files))]:
        raise OutputError(f"{manifest_path(folder)} names files of no output; predict all rows again with --force")
    if not manifest.complete:
        raise OutputError(f"{folder}: is not complete; continue with --resume")
    return manifest.files


def check_files(folder: Path, files: Sequence[MergedFile], instead: Path | None = None) -> None:
    """Raise OutputError where a file is not as the manifest says, unless it is in the folder `instead`."""
    for file in files:
        path = folder / file.name
        if instead and (instead / file.name).exists():
            path = instead / file.name
        if not path.is_file() or path.stat().st_size != file.bytes:
            raise OutputError(f"{path} is gone, or another file than it was; predict all rows again with --force")
    if more := {path.name for path in files_in(folder)} - {file.name for file in files}:
        raise OutputError(f"{folder}: {min(more)} is no file of it; predict all rows again with --force")


def write_manifest(place: OutputPlace, files: Sequence[MergedFile], rows: int, *, complete: bool) -> None:
    """Say which files count, under the names that they have, and how many rows these are."""
    manifest = Manifest(complete, rows, list(files))
    place.write_beside(MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
