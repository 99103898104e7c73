"""A folder or a pattern --> the files that it names."""

from __future__ import annotations

import glob
import os
from pathlib import Path

from tasks.datasets.read_errors import check_file, one_line_errors
from worker_config.errors import InputError
from worker_config.files import escaped


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
