"""Finds the file or folder that is served of a model's path, which may be a tree of versions.

PATH/1/saved_model.pb...    a version is a SavedModel folder,
PATH/2/model.keras          or a folder with one model file
"""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

from worker_config.manifest import ModelEntry
from worker_config.model_paths import SAVED_MODEL, SUFFIXES, ending, versions


def served_path(entry: ModelEntry) -> Path:
    """The path itself, or that of the version `entry.version` in it, the highest where that is 0.

    Raises:
        FileNotFoundError: there is nothing at the path, no such version, or no model in it; its `strerror` says what
            there is.
    """
    path = Path(entry.path)
    if not path.exists():
        raise _missing(os.strerror(errno.ENOENT))
    folders = versions(path)
    if not folders:
        if entry.version:
            raise _missing(f"no version {entry.version}: it is no tree of versions")
        if path.is_dir() and not (path / SAVED_MODEL).exists():
            raise _missing(f"the folder holds no {SAVED_MODEL}, nor versions of a model, such as {path.name}/1")
        return path
    if entry.version and entry.version not in folders:
        known = ", ".join(map(str, sorted(folders)))
        raise _missing(f"no version {entry.version}; there are: {known}")
    return _model_in(folders[entry.version or max(folders)])


def checkpoint_files(path: Path) -> list[Path]:
    """The files of a checkpoint, of which one is the `.meta` file at this path."""
    name = path.name.removesuffix(".meta")
    form = re.compile(re.escape(name) + r"\.(meta|index|data-\d+-of-\d+)")
    return [file for file in path.parent.iterdir() if form.fullmatch(file.name)]


def _model_in(folder: Path) -> Path:
    if (folder / SAVED_MODEL).exists():
        return folder
    files = sorted(path for path in folder.iterdir() if ending(path) in SUFFIXES)
    if len(files) != 1:
        what = " and ".join(path.name for path in files) if files else "no model"
        raise _missing(f"version {folder.name} holds {what}; it must hold a SavedModel, or one model file")
    return files[0]


def _missing(text: str) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, text)
