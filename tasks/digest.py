"""This module names a model by what its files hold: SHA-256 over one file, or over a folder's paths and files."""

from __future__ import annotations

import hashlib
from pathlib import Path


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
