"""This package reads models, one module for each kind of file; each gives a `Program`.

.keras, .h5         keras.py          keras.models.load_model, safe mode, not compiled
SavedModel folder   saved_model.py    tf.saved_model.load, one signature
"""

from __future__ import annotations

from pathlib import Path

from tasks.models.program import Program
from worker_config.manifest import ModelEntry


def open_model(entry: ModelEntry) -> Program:
    """Read a model; `entry.path` is its file or folder.

    Raises:
        Exception: whatever its library raises for a file that is none of its kind; ValueError and FileNotFoundError
            where we look ourselves.
    """
    path = Path(entry.path)
    if not path.exists():
        raise FileNotFoundError("no such file or folder")
    if path.is_dir():
        from tasks.models.formats.saved_model import open_saved_model

        return open_saved_model(path, entry)
    if path.suffix in (".keras", ".h5"):
        from tasks.models.formats.keras import open_keras

        return open_keras(path, entry)
    raise ValueError("not a .keras or .h5 file, nor a SavedModel folder")
