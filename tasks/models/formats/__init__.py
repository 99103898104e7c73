"""Reads models, one module for each kind of file; each gives a `Program`.

.keras, .h5, .hdf5        keras.py          keras.models.load_model, safe mode, not compiled
SavedModel folder         saved_model.py    tf.saved_model.load, one signature; sessions.py for those of TensorFlow 1
.pb                       frozen.py         a frozen graph, by tensor names
.meta with checkpoint     sessions.py       restored in a session and frozen
.tflite                   tflite.py         LiteRT's interpreter
module:function           (here)            any Python

graph_def.py, tensor_names.py and frozen.py make programs of graphs, however they came to be frozen.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from tasks.models.formats.file_operations import check_operations
from tasks.models.formats.frozen import open_graph
from tasks.models.formats.inspect_file import inspect_file
from tasks.models.formats.keras import open_keras
from tasks.models.formats.saved_model import open_saved_model
from tasks.models.formats.sessions import open_checkpoint
from tasks.models.formats.tflite import open_tflite
from tasks.models.program import Program, check_rows, in_order, with_outputs
from tasks.models.user_functions import import_modules, import_step
from tasks.protocol.records import FileOperation
from worker_config.manifest import ModelEntry, is_function
from worker_config.model_paths import SUFFIXES, ending
from worker_config.version_folders import served_path

_WHY_PLAIN = "a function is imported by each child"
_UNKNOWN_OPERATION = re.compile(r"Op type not registered '([^']+)'")
# Modules whose import registers operations, by the names of these.
_BROUGHT_BY = {
    "ydf_tf": re.compile("^SimpleML"),
    "tensorflow_text": re.compile(
        "Tokeniz|Sentencepiece|^TFText|^CaseFold|^NormalizeUTF8|^(ConstrainedSequence|FastBertNormalize|"
        "FindSourceOffsets|MaxSpanningTree|RegexSplitWithOffsets|RougeL|SentenceFragments(V2)?)$"
    ),
}
_FILES: dict[str, Callable[[Path, ModelEntry], Program]] = {
    ".keras": open_keras,
    ".h5": open_keras,
    ".hdf5": open_keras,
    ".pb": open_graph,
    ".meta": open_checkpoint,
    ".tflite": open_tflite,
}


def open_model(entry: ModelEntry) -> Program:
    """Read a model; `entry.path` is its file or folder, a tree of versions, a function, or there is none.

    Few formats keep an order of the inputs: lists of Keras, and TFLite without signatures. `entry.inputs` gives one.
    Of the outputs it has those of `entry.outputs`; else all that have a row for each of the inputs.

    Raises:
        Exception: whatever its library raises for a file that is none of its kind; ValueError, ImportError and
            FileNotFoundError where we look ourselves.
    """
    import_modules(entry)
    if not entry.path:
        return Program([], [], why_plain=_WHY_PLAIN)
    if is_function(entry.path):
        return Program([], [], function=import_step(entry.path, entry.folder), why_plain=_WHY_PLAIN)
    check_operations(inspect_model(entry), entry)
    path = served_path(entry)
    try:
        program = open_saved_model(path, entry) if path.is_dir() else _FILES[ending(path)](path, entry)
    except Exception as error:
        if unknown := _UNKNOWN_OPERATION.search(str(error)):
            raise ValueError(_lacking(unknown[1])) from None
        raise
    check_rows(program.inputs)
    program = with_outputs(program, entry)
    return in_order(program, entry.inputs) if entry.inputs else program


def _lacking(operation: str) -> str:
    known = next((module for module, names in _BROUGHT_BY.items() if names.search(operation)), "")
    return (
        f"it needs the operation {operation!r}, which TensorFlow itself does not have; install the package that brings "
        f'it, and name its module in the manifest, imports = ["{known or "package.module"}"]'
    )


def inspect_model(entry: ModelEntry) -> list[FileOperation]:
    """The operations of a model's file that touch more than its rows; the model is not loaded.

    Raises:
        ValueError, FileNotFoundError: as `open_model`.
    """
    path = served_path(entry)
    if not path.is_dir() and ending(path) not in _FILES:
        raise ValueError(f"not a {', '.join(SUFFIXES)} file, nor a SavedModel folder")
    return inspect_file(path, entry)
