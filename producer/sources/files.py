"""A folder or a pattern --> rows that are the paths of files, or their bytes."""

from __future__ import annotations

import glob
import logging
import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from producer.rows.kept import PATH
from producer.rows.readers import SliceReader
from producer.sources.arrays import ArraySource, array_source
from tasks.datasets.columns import listed
from tasks.datasets.marked import marked
from tasks.datasets.read_errors import check_file, one_line_errors
from tasks.datasets.rows import Rows
from worker_config.errors import InputError
from worker_config.files import escaped

logger = logging.getLogger(__name__)

# Files differ in size: this many of them, spread over all, tell how large they are.
_SAMPLED_FILES = 256


def open_files(path: str | Path, contents: bool = False) -> ArraySource | SliceReader:
    """Open the files of a folder or of a pattern, sorted by path, as rows.

    Args:
        path: a folder, or a pattern as of `glob`; `**` goes through subfolders. Hidden files are left out.
        contents: rows are the bytes of the files; if not, their absolute paths as str, for a preprocess function of
            the model that opens them, on machines where they are at the same place. A path that is no UTF-8 is bytes.

    Raises:
        InputError: there are no such files.
    """
    matches = find_files(path)
    label = escaped(Path(path).name)
    if subfolders := [] if is_pattern(os.fspath(path)) else _subfolders(path):
        logger.warning(
            "%s: its subfolders are left out: %s; for their files too give the pattern %s/**/*",
            label,
            listed(subfolders),
            escaped(str(path)),
        )
    paths = np.array([_path(file) for file in matches], dtype=object)
    source = replace(array_source(paths, label, str(path)), others={PATH: paths})
    if not contents:
        return source
    sample = matches[:: max(1, len(matches) // _SAMPLED_FILES)]
    row_bytes = sum(os.path.getsize(file) for file in sample if os.path.isfile(file)) / len(sample)  # noqa: PTH113, PTH202

    def read(start: int, stop: int) -> Rows:
        contents, unfed = np.full(stop - start, b"", dtype=object), {}
        for position, file in enumerate(matches[start:stop]):
            try:
                contents[position] = _read(file)
            except InputError as error:
                unfed[position] = str(error)
        return marked(contents, unfed)

    return SliceReader(label, len(matches), row_bytes, read, source.table)


def _subfolders(path: str | Path) -> list[str]:
    with one_line_errors(escaped(str(path))):
        visible = (entry for entry in os.scandir(path) if entry.name[0] != ".")
        return sorted(escaped(entry.name) for entry in visible if os.path.isdir(entry.path))  # noqa: PTH112


def _path(file: Path) -> str | bytes:
    """A path as a row: what the system has for a name need be no text."""
    name = str(file.absolute())
    return name if escaped(name) == name else os.fsencode(name)


def _read(file: Path) -> bytes:
    check_file(file, "files")
    with one_line_errors(escaped(str(file))):
        return file.read_bytes()


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
