"""This module names a model by what its files hold: SHA-256 over one file, or over a folder's paths and files.

The functions around a model are a part of it: their names count, and the files in which they stand.
"""

from __future__ import annotations

import hashlib
import sys
from importlib.machinery import PathFinder
from pathlib import Path

from worker_config.manifest import ModelEntry


def entry_digest(entry: ModelEntry) -> str:
    """The hexadecimal SHA-256 of a model with the functions around it.

    Raises:
        OSError: a file cannot be read.
    """
    digest = model_digest(Path(entry.path))
    if not (entry.preprocess or entry.postprocess):
        return digest
    total = hashlib.sha256(digest.encode())
    for step in (entry.preprocess, entry.postprocess):
        source = _source_of(step.partition(":")[0])
        total.update(f"\0{step}\0".encode())
        total.update(source.read_bytes() if source else b"")
    return total.hexdigest()


def _source_of(module: str) -> Path | None:
    """A module's file, found without importing anything, as a worker that is started here would find it."""
    places: list[str] | None = [*sys.path, str(Path.cwd())]
    spec, name = None, ""
    for part in module.split("."):
        name = f"{name}.{part}" if name else part
        spec = PathFinder.find_spec(name, places)
        if spec is None:
            return None
        places = list(spec.submodule_search_locations or [])
    return Path(spec.origin) if spec and spec.origin and Path(spec.origin).is_file() else None


def model_digest(path: Path) -> str:
    """The hexadecimal SHA-256 of a model's file, or of its folder in a fixed order.

    Raises:
        OSError: a file cannot be read.
    """
    if not path.is_dir():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    total = hashlib.sha256()
    for file_path in sorted(p for p in path.rglob("*") if p.is_file()):
        total.update(file_path.relative_to(path).as_posix().encode())
        total.update(b"\0")
        with file_path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()
