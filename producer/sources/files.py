"""A folder, a pattern or a URL --> the files or objects that it names, and what tells each from itself later."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

import msgspec

from producer.sources.arrays import stamp_of
from tasks.datasets.read_errors import check_file, one_line_errors
from tasks.protocol.split_ref import FileSpan
from tasks.storage.object_list import ObjectList, ObjectPath
from tasks.storage.object_paths import find_objects
from tasks.storage.told import told
from worker_config.errors import InputError
from worker_config.files import escaped
from worker_config.object_urls import is_url, redacted_url


def find_data(path: str | Path, suffix: str) -> Iterator[Path | ObjectPath]:
    """The same of files or, where a URL is given, objects, one by one; if each of them takes long, that is told."""
    if is_url(path):
        objects = find_objects(str(path), suffix)
        yield from told(objects, f"{redacted_url(str(path))}: objects looked at", len(objects))
    else:
        files = find_files(path, suffix)
        yield from told(files, f"{escaped(os.fspath(path))}: files looked at", len(files))


def span_of(file: Path | ObjectPath) -> FileSpan:
    """None of the rows of a file as it is now, or of an object as it was when it was found.

    Raises:
        InputError: the file cannot be looked at.
    """
    if isinstance(file, ObjectPath):
        return FileSpan(str(file), file.stamp.size, file.stamp.mtime_ns, 0, 0, 0, etag=file.stamp.etag)
    with one_line_errors(str(file)):
        return FileSpan(str(file), *stamp_of(file.stat()), 0, 0, 0)


class ObjectSpans(Sequence[FileSpan]):
    """The spans of objects that are a row each, made when they are asked for: of a million none is kept."""

    def __init__(self, objects: ObjectList) -> None:
        self._objects = objects

    def __len__(self) -> int:
        return len(self._objects)

    @overload
    def __getitem__(self, at: int) -> FileSpan: ...
    @overload
    def __getitem__(self, at: slice) -> list[FileSpan]: ...
    def __getitem__(self, at: int | slice) -> FileSpan | list[FileSpan]:
        rows = range(len(self))[at]
        if isinstance(rows, int):
            return object_span(self._objects[rows], rows)
        return [object_span(self._objects[row], row) for row in rows]

    def paths(self) -> Iterator[str]:
        """The path of each."""
        return self._objects.urls()


def object_span(one: ObjectPath, row: int) -> FileSpan:
    """All of an object, which is this row of the data set."""
    return msgspec.structs.replace(span_of(one), first=row, stop=1)


def find_files(path: str | Path, suffix: str = "") -> list[Path]:
    """The files of a folder or a pattern, sorted by path, or one file; InputError where there are none.

    With a suffix, only those whose names hold it; of a pattern all, where none does.
    """
    name, shown = os.fspath(path), escaped(os.fspath(path))
    if is_pattern(name):
        matches = [Path(match) for match in glob.glob(name, recursive=True) if _is_file(match)]  # noqa: PTH207
        if not matches:
            raise InputError(f"{shown}: no files match; check the pattern")
        return sorted(file for file in matches if suffix in file.name.lower()) or sorted(matches)
    if not Path(name).is_dir():
        check_file(Path(name), "files")
        return [Path(name)]
    with one_line_errors(shown):
        inside = [Path(entry.path) for entry in os.scandir(name) if _is_file(entry.path) and entry.name[0] != "."]
    matches = [file for file in inside if suffix in file.name.lower()]
    if not matches:
        what = f"no {suffix} files" if suffix else "no files"
        raise InputError(f"{shown}: has {what} in it; for files in subfolders give the pattern {shown}/**/*{suffix}")
    return sorted(matches)


def _is_file(path: str) -> bool:
    """Whether this is a file, or a link that leads nowhere, which is an error of its own, not a file less."""
    return os.path.isfile(path) or (os.path.islink(path) and not os.path.exists(path))  # noqa: PTH110, PTH113, PTH114


def is_pattern(name: str) -> bool:
    """Whether this is a pattern, and not the name of a file or folder that has pattern characters in it."""
    return glob.has_magic(name) and not os.path.lexists(name)
