"""This module reads Keras files: `.keras` and `.h5`, in safe mode, not compiled."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.models.program import Program, spec_of
from worker_config.manifest import ModelEntry


def open_keras(path: Path, entry: ModelEntry) -> Program:
    """The model of a Keras file.

    Raises:
        ValueError: it does not tell its inputs, or is no model that Keras reads in safe mode.
    """
    import keras
    import tensorflow as tf

    model = keras.models.load_model(path, compile=False, safe_mode=True)
    if not getattr(model, "inputs", None):
        raise ValueError("the model does not tell its inputs; build it before saving, or export a SavedModel")
    structure = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
    names = sorted(structure) if isinstance(structure, dict) else [tensor.name for tensor in model.inputs]
    inputs = [spec_of(name, tensor) for name, tensor in zip(names, model.inputs, strict=True)]
    specs = [tf.TensorSpec(spec.shape, spec.dtype, name=f"input_{number}") for number, spec in enumerate(inputs)]
    output_names: list[str] = []

    def run(tensors: Sequence[Any]) -> Sequence[Any]:
        result = model(tf.nest.pack_sequence_as(structure, list(tensors)), training=False)
        output_names[:] = _output_names(model, result)
        flat: list[Any] = tf.nest.flatten(result)
        return flat

    traced = tf.function(lambda *tensors: run(tensors), input_signature=specs, autograph=False).get_concrete_function()
    outputs = [spec_of(name, tensor) for name, tensor in zip(output_names, traced.outputs, strict=True)]
    return Program(inputs, outputs, run=run, variables=[variable.value for variable in model.variables], tracked=model)


def _output_names(model: Any, result: Any) -> list[str]:
    """Names in the order of `tf.nest.flatten`, which sorts the keys of a dict."""
    if isinstance(result, dict):
        return sorted(result)
    # A Sequential model has no names for its outputs, but its last layer has.
    return list(getattr(model, "output_names", None) or [model.layers[-1].name])
