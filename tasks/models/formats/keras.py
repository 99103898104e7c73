"""Reads Keras files, `.keras` and `.h5`: in safe mode, not compiled.

A Lambda layer is Python code in the file, which runs when it is read: only with `lambdas = true` in the manifest. So
are files of Keras 2 that Keras 3 cannot read: tf_keras, which can, imports whatever module a file names.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tasks.models.formats.file_operations import LAMBDAS, Graph, check_operations
from tasks.models.program import Program, output_spec_of, spec_of, tensor_specs
from tasks.protocol.records import FileOperation
from worker_config.manifest import ModelEntry

# Keras tells which class it does not know only in words.
_UNKNOWN = re.compile(r"(?:Could not locate \w+|Unknown \w+:) '([^']+)'")


def open_keras(path: Path, entry: ModelEntry) -> Program:
    """The model of a Keras file.

    Raises:
        ValueError: it is none, does not tell its inputs, or brings code or classes of its own.
    """
    import tensorflow as tf

    model = _load(path, entry)
    if not getattr(model, "inputs", None):
        raise ValueError("the model does not tell its inputs; build it before saving, or export a SavedModel")
    import keras

    structure = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
    tensors = keras.tree.flatten(structure)
    names = _names(structure, [tensor.name for tensor in tensors])
    inputs = [spec_of(name, tensor) for name, tensor in zip(names, tensors, strict=True)]
    output_names: list[str] = []

    def run(tensors: Sequence[Any]) -> Sequence[Any]:
        result = model(keras.tree.pack_sequence_as(structure, list(tensors)), training=False)
        flat: list[Any] = keras.tree.flatten(result)
        # A Sequential model has no names for its outputs, but its last layer has.
        known = getattr(model, "output_names", None) or [model.layers[-1].name]
        output_names[:] = _names(result, list(known))
        return flat

    specs = tensor_specs(inputs)
    traced = tf.function(lambda *tensors: run(tensors), input_signature=specs, autograph=False).get_concrete_function()
    # Of layers, their description tells; what they come to only the graph does.
    graph = Graph(traced.graph.as_graph_def())
    check_operations(graph.touching([tensor.name for tensor in traced.outputs]), entry)
    outputs = [output_spec_of(name, tensor) for name, tensor in zip(output_names, traced.outputs, strict=True)]
    variables = [one if isinstance(one, tf.Variable) else one.value for one in model.variables]
    return Program(inputs, outputs, run=run, variables=variables, tracked=model, ordered=_is_ordered(structure))


def _load(path: Path, entry: ModelEntry) -> Any:
    import keras

    try:
        safe_mode = not (entry.lambdas or entry.allow_file_operations)
        return keras.models.load_model(path, compile=False, safe_mode=safe_mode)
    except Exception as error:
        if version := _keras_2_version(path):
            return _load_keras_2(path, entry, version)
        unknown = _UNKNOWN.search(str(error))
        if unknown is None:
            raise
        raise ValueError(
            f"it needs the class or function {unknown[1]!r}, which is not one of Keras's own; name the module that "
            'registers it in the manifest, imports = ["package.module"], or export the model as a SavedModel '
            "(model.export), which brings what it needs"
        ) from None


def _load_keras_2(path: Path, entry: ModelEntry, version: str) -> Any:
    is_here = find_spec("tf_keras") is not None
    if entry.lambdas and is_here:
        import tf_keras

        return tf_keras.models.load_model(path, compile=False, safe_mode=False)
    raise ValueError(
        f"it is a Keras 2 file ({version}), which Keras 3 cannot read; export it as a SavedModel where tf_keras is "
        "installed, by tf_keras.models.load_model(file).export(folder); or, if you trust the file, "
        f"{'' if is_here else 'install tf_keras here and '}say lambdas = true in the manifest: then tf_keras reads it"
    ) from None


def _keras_2_version(path: Path) -> str:
    """The version of Keras that wrote a file, if that is older than 3."""
    import h5py

    if path.suffix == ".keras":
        with zipfile.ZipFile(path) as archive:
            is_told = "metadata.json" in archive.namelist()
            version = json.loads(archive.read("metadata.json")).get("keras_version", "") if is_told else ""
    else:
        with h5py.File(path) as file:
            version = file.attrs.get("keras_version", "")
    text = version.decode() if isinstance(version, bytes) else str(version)
    return text if text.startswith(("1.", "2.")) else ""


def read_config(path: Path) -> Any:
    """The model's description, which Keras reads before it makes anything of it.

    Raises:
        ValueError: the file is none of Keras's.
    """
    import h5py

    try:
        if path.suffix == ".keras":
            if not zipfile.is_zipfile(path):
                raise ValueError("not a .keras file: it is no zip archive")
            with zipfile.ZipFile(path) as archive:
                return json.loads(archive.read("config.json"))
        if not h5py.is_hdf5(path):
            raise ValueError("not a Keras model: it is no HDF5 file")
        with h5py.File(path) as file:
            config = file.attrs["model_config"]
        return json.loads(config)
    except KeyError:
        raise ValueError("not a Keras model: it may hold weights alone; save the whole model") from None


def layer_operations(config: Any) -> Iterator[FileOperation]:
    """The layers of a model's description that are Python code, or read a file or a SavedModel at some path."""
    if isinstance(config, list):
        for one in config:
            yield from layer_operations(one)
    if not isinstance(config, dict):
        return
    kind, inner = config.get("class_name"), config.get("config")
    name = str(inner.get("name", kind)) if isinstance(inner, dict) else str(kind)
    if kind in LAMBDAS:
        yield FileOperation(str(kind), name, "Python")
        return
    if kind == "TFSMLayer" or (isinstance(inner, dict) and isinstance(inner.get("vocabulary"), str)):
        yield FileOperation(str(kind), name, "files")
    for one in config.values():
        yield from layer_operations(one)


def _is_ordered(tree: Any) -> bool:
    """Whether there is no dict in it: Keras sorts the keys of one, as anyone who calls the model need not know."""
    return not isinstance(tree, dict) and all(map(_is_ordered, tree if isinstance(tree, list | tuple) else ()))


def _names(tree: Any, otherwise: list[str]) -> list[str]:
    """One name for each leaf, in the order of `keras.tree.flatten`; the keys where the tree is a dict of leaves."""
    import keras

    flat = keras.tree.flatten(tree)
    if isinstance(tree, dict) and len(flat) == len(tree):
        return sorted(tree)
    if len(otherwise) != len(flat):
        return [f"output_{number}" for number in range(len(flat))]
    # Several outputs may come from one layer.
    return [f"{name}_{n}" if (n := otherwise[:i].count(name)) else name for i, name in enumerate(otherwise)]
