"""Snapshots of small models, written without the code that makes them in a worker."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from tasks.executors.graph_operations import operations_of
from tasks.models.program import Program, concrete
from tasks.snapshots.record import Snapshot
from tasks.snapshots.weights import write_arrays
from worker_config.manifest import ModelEntry


def write_snapshot(folder: Path, program: Program, entry: ModelEntry) -> Snapshot:
    """Write `model/` and `weights.bin` into the folder, and say what they hold."""
    import tensorflow as tf

    folder.mkdir(parents=True, exist_ok=True)
    module = tf.Module()
    module.held = [list(program.variables), program.tracked]
    tf.saved_model.save(module, str(folder / "model"), signatures={"serving_default": concrete(program)})
    saved = tf.saved_model.load(str(folder / "model"))  # variables live as long as it does
    variables = saved.signatures["serving_default"].variables
    weights = write_arrays(folder / "weights.bin", ((one.name, one.numpy()) for one in variables))
    shutil.rmtree(folder / "model" / "variables")
    return Snapshot(
        version=1,
        kind="mapped",
        digest="0" * 64,
        tensorflow=tf.__version__,
        entry=entry,
        inputs=program.inputs,
        outputs=program.outputs,
        weights=weights,
        weight_bytes=(folder / "weights.bin").stat().st_size,
        files={},
        operations=sorted(operations_of(folder / "model")),
    )


def keras_program(path: Path, model: Any) -> Program:
    """A Keras model, by way of its file."""
    from tasks.models.formats.keras import open_keras

    model.save(path)
    return open_keras(path, ModelEntry(path=str(path)))
