"""This module runs the model's own graph, its variables aliasing the snapshot's weight file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks.models.program import FlatCall, flat_call
from tasks.snapshots.record import Snapshot
from tasks.snapshots.weights import map_weights


def load(folder: Path, snapshot: Snapshot, batch_rows: int, threads: int) -> FlatCall:
    """The graph's signature, of any batch."""
    function, saved = signature(folder, snapshot)
    call = flat_call(function, len(snapshot.outputs))
    call.keep = saved  # type: ignore[attr-defined] # its variables live as long as it does
    return call


def signature(folder: Path, snapshot: Snapshot) -> tuple[Any, Any]:
    """The concrete function on mapped weights, from `input_0`... to `output_0`..., and what it lives in."""
    import tensorflow as tf

    options = tf.saved_model.LoadOptions(experimental_skip_checkpoint=True)
    saved = tf.saved_model.load(str(folder / "model"), options=options)
    function = saved.signatures["serving_default"]
    map_weights(folder / "weights.bin", snapshot.weights, function.variables)
    return function, saved
