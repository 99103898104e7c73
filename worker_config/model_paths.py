"""Tells paths of models from others: by suffix, by what a SavedModel folder holds, by the numbers of versions."""

from __future__ import annotations

import re
from pathlib import Path

SUFFIXES = (".keras", ".h5", ".hdf5", ".pb", ".meta", ".tflite")
SAVED_MODEL = "saved_model.pb"
MANIFEST = "models.toml"


def is_model(path: Path) -> bool:
    """Whether a path is that of a model by itself: a file of its kind, a SavedModel folder, a tree of versions."""
    return ending(path) in SUFFIXES or (path / SAVED_MODEL).exists() or bool(versions(path))


def manifest_at(path: Path) -> Path:
    """The manifest that a folder, such as a model set that was built, holds under its usual name; else the path."""
    return path / MANIFEST if not is_model(path) and (path / MANIFEST).is_file() else path


def ending(path: Path) -> str:
    """What says which format a file has; a checkpoint may have no name before it."""
    return path.name if path.name == ".meta" else path.suffix


def name_of(path: Path) -> str:
    """What a model is called that no manifest names: as its file or folder, without what names have not."""
    path = path.absolute()
    name = path.stem if ending(path) in SUFFIXES else path.name
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name).lstrip("_.-")[:100] or "model"


def versions(path: Path) -> dict[int, Path]:
    """The folders of a tree of versions, by number; none where it is no such tree."""
    if not path.is_dir() or (path / SAVED_MODEL).exists():
        return {}
    # The digits of other scripts are digits too.
    found = sorted(p for p in path.iterdir() if p.name.isascii() and p.name.isdigit() and p.is_dir())
    return {int(folder.name): folder for folder in found}
