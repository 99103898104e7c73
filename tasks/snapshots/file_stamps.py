"""Tells whether files are still those whose bytes were checked, without reading them again.

    worker's start: stamps_of, then SHA-256 of every file --ServingSpec--> child: the same stamps? nothing to read
                                                                                  others? SHA-256 again

Whatever writes to a file sets its ctime, which no ordinary call sets back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeAlias

from tasks.snapshots.cache import check_files

# Inode, size, and the times of the last change of the bytes and of the file.
Stamp: TypeAlias = tuple[int, int, int, int]


def stamps_of(folder: Path, names: Iterable[str]) -> dict[str, Stamp]:
    """The stamps of these files of a folder, as far as they are there."""
    found = {}
    for name in names:
        try:
            status = (folder / name).stat()
        except OSError:
            continue
        found[name] = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return found


def check_changed(folder: Path, files: Mapping[str, tuple[int, str]], stamps: Mapping[str, Stamp]) -> None:
    """Make sure that files have the bytes that they should; those with the same stamps have.

    Raises:
        ValueError: one is missing, or other bytes stand in it.
    """
    now = stamps_of(folder, files)
    changed = {name: expected for name, expected in files.items() if name not in now or now[name] != stamps.get(name)}
    check_files(folder, changed)
