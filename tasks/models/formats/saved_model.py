"""This module reads SavedModel folders, one signature of each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.models.program import Program, spec_of
from worker_config.manifest import ModelEntry


def open_saved_model(path: Path, entry: ModelEntry) -> Program:
    """The signature `entry.signature` of a SavedModel.

    Raises:
        ValueError: it is no SavedModel, or has no such signature; the text names those that it has.
    """
    import tensorflow as tf

    if not (path / "saved_model.pb").is_file():
        raise ValueError("the folder holds no saved_model.pb")
    saved = tf.saved_model.load(str(path))
    if entry.signature not in saved.signatures:
        known = ", ".join(sorted(saved.signatures)) or "none"
        raise ValueError(f"no signature {entry.signature!r}; it has: {known}")
    function = saved.signatures[entry.signature]
    inputs = [spec_of(name, spec) for name, spec in sorted(function.structured_input_signature[1].items())]
    outputs = [spec_of(name, spec) for name, spec in sorted(function.structured_outputs.items())]

    def run(tensors: Sequence[Any]) -> Sequence[Any]:
        result = function(**{spec.name: tensor for spec, tensor in zip(inputs, tensors, strict=True)})
        return [result[spec.name] for spec in outputs]

    return Program(inputs, outputs, run=run, variables=function.variables, tracked=saved)
