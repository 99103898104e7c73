"""OUT.manifest.json, beside an output that is a folder of files: which of them count, and whether that is all."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import msgspec

from producer.sinks.output_place import OutputPlace
from worker_config.errors import OutputError
from worker_config.foreign_errors import UNDECODABLE, one_line

# After the name of the output.
MANIFEST = ".manifest.json"
_NAMED = re.compile(r"part-\d{5,}\.\w+")


class MergedFile(msgspec.Struct, frozen=True):
    """A file of the output: rows `[start, stop)` of the data set; `name` is that of the attempt that made it."""

    name: str
    start: int
    stop: int
    rows: int
    bytes: int


class Manifest(msgspec.Struct, frozen=True):
    """The files of an output in their order, of which each has the rows after the one before."""

    complete: bool
    rows: int
    files: list[MergedFile]
    format: int = 1


def file_name(suffix: str, number: int) -> str:
    """Name a file of an output, from zero on."""
    return f"part-{number:05d}{suffix}"


def is_file_name(name: str) -> bool:
    """Whether a file of an output may have this name."""
    return bool(_NAMED.fullmatch(name))


def manifest_path(folder: Path) -> Path:
    """Name the manifest of an output."""
    return folder.with_name(folder.name + MANIFEST)


def files_in(folder: Path) -> list[Path]:
    """The files of an output that are there."""
    return sorted(path for path in folder.iterdir() if is_file_name(path.name))


def read_manifest(folder: Path) -> list[MergedFile]:
    """The files of an output that is complete; OutputError where it is not, or has other files than these."""
    try:
        manifest = msgspec.json.decode(manifest_path(folder).read_bytes(), type=Manifest)
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


def write_manifest(place: OutputPlace, suffix: str, files: Sequence[MergedFile], *, complete: bool) -> None:
    """Say which files count."""
    named = [msgspec.structs.replace(file, name=file_name(suffix, number)) for number, file in enumerate(files)]
    manifest = Manifest(complete, sum(file.rows for file in named), named)
    place.write_beside(MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
