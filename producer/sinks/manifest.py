"""OUT.manifest.json, beside an output that is a folder of files: which of them count, and whether that is all."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from producer.sinks.output_place import OutputPlace

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


def write_manifest(place: OutputPlace, suffix: str, files: Sequence[MergedFile], *, complete: bool) -> None:
    """Say which files count."""
    named = [msgspec.structs.replace(file, name=file_name(suffix, number)) for number, file in enumerate(files)]
    manifest = Manifest(complete, sum(file.rows for file in named), named)
    place.write_beside(MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
