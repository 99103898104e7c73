"""A model in memory --> a file or folder of it, by its own library, which the caller has imported already.

Keras                       .keras; a SavedModel where classes or functions of the caller's own are in it
tf.Module, a loaded SavedModel, tf.function, ConcreteFunction      a SavedModel
bytes                       .tflite
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from producer.embedded.keras_file import has_own_code, save_keras_file
from worker_config.errors import ModelLoadError, UsageError
from worker_config.foreign_errors import one_line

_TFLITE = b"TFL3"


def save_model(model: Any, path: Path, where: str) -> dict[str, Any]:
    """Save it at the path, to which a suffix is added.

    Gives keys of the manifest: `path`, and `inputs` where a SavedModel would lose their order. `where` names the model
    in the caller's words.

    Raises:
        UsageError: nothing of which a model can be made.
        ModelLoadError: its library cannot save it.
    """
    save = _saver(model)
    if save is None:
        raise UsageError(
            f"{where} is a {type(model).__name__}; a model is one of Keras, a tf.Module, a tf.function, the bytes of a "
            ".tflite file, the path of a model, or a function that takes and gives arrays"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is of no use in a file that others load
            return save(model, path, where)
    except UsageError:
        raise
    except Exception as error:
        raise ModelLoadError(f"{where} cannot be saved: {type(error).__name__}: {one_line(error)[:300]}") from error


def _saver(model: Any) -> Callable[[Any, Path, str], dict[str, Any]] | None:
    if isinstance(model, bytes | bytearray | memoryview):
        return _save_tflite
    if isinstance(model, _kind("keras", "Model")):
        return _save_keras
    if isinstance(model, _kind("tf_keras", "Model")):
        return _export
    if isinstance(model, _kind("tensorflow", "Module")) or hasattr(model, "signatures"):
        return _save_module
    is_function = hasattr(model, "get_concrete_function") or hasattr(model, "structured_input_signature")
    return _save_function if is_function else None


def _kind(module: str, name: str) -> Any:
    """A class of a module that has been imported: nothing is one of a module that has not."""
    return getattr(sys.modules.get(module), name, ())


def _save_tflite(model: bytes | bytearray | memoryview, path: Path, where: str) -> dict[str, Any]:
    data, file = bytes(model), path.with_suffix(".tflite")
    if data[4:8] != _TFLITE:
        raise UsageError(f"{where} is {len(data):,} bytes that are no .tflite file")
    file.write_bytes(data)
    return {"path": str(file)}


def _save_keras(model: Any, path: Path, where: str) -> dict[str, Any]:
    if not model.built:
        raise UsageError(f"{where} has no weights yet: call it once on some rows, or begin it with keras.Input")
    if not has_own_code(model) and save_keras_file(model, file := path.with_suffix(".keras")):
        return {"path": str(file)}
    return _export(model, path, where, verbose=False)


def _export(model: Any, path: Path, where: str, **options: Any) -> dict[str, Any]:
    model.export(str(path), **options)
    inputs = getattr(model, "inputs", None) or []
    is_ordered = len(inputs) > 1 and isinstance(model.input, list | tuple)  # and a signature sorts them
    return {"path": str(path), **({"inputs": [one.name for one in inputs]} if is_ordered else {})}


def _save_module(model: Any, path: Path, where: str) -> dict[str, Any]:
    signatures = getattr(model, "signatures", None) or (model.__call__ if callable(model) else None)
    if not hasattr(signatures, "get_concrete_function") and not hasattr(signatures, "items"):
        raise UsageError(
            f"{where} is a {type(model).__name__} without a signature; make its __call__ a "
            "@tf.function(input_signature=[tf.TensorSpec([None, ...], dtype)])"
        )
    sys.modules["tensorflow"].saved_model.save(model, str(path), signatures=signatures)
    return {"path": str(path)}


def _save_function(function: Any, path: Path, where: str) -> dict[str, Any]:
    tf = sys.modules["tensorflow"]
    if hasattr(function, "get_concrete_function"):
        if function.input_signature is None:
            raise UsageError(
                f"{where} is a tf.function without an input_signature; give it one, as in "
                "@tf.function(input_signature=[tf.TensorSpec([None, ...], dtype)])"
            )
        function = function.get_concrete_function()
    module = tf.Module()
    module.variables_of_function = list(function.graph.variables)  # else they would not be saved
    tf.saved_model.save(module, str(path), signatures=function)
    return {"path": str(path)}
