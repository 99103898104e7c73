"""Runs the model's own graph, its variables aliasing the snapshot's weight file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tasks.models.program import FlatCall, flat_call, tensor_specs
from tasks.models.state import variable_state
from tasks.snapshots.record import WEIGHTS, Snapshot
from tasks.snapshots.weights import map_weights


def load(folder: Path, snapshot: Snapshot, batch_rows: int, threads: int) -> FlatCall:
    """The graph's signature, of any batch."""
    function, saved = signature(folder, snapshot)
    call = flat_call(function, len(snapshot.outputs))
    call.keep = saved  # type: ignore[attr-defined] # its variables live as long as it does
    state = variable_state(function.variables, snapshot.state, snapshot.seeds)
    if state:
        state.restore()  # what is written to must not alias the weight file's map
    call.state = state  # type: ignore[attr-defined]
    return call


def signature(folder: Path, snapshot: Snapshot) -> tuple[Any, Any]:
    """The concrete function on mapped weights, from `input_0`... to `output_0`..., and what it lives in."""
    import tensorflow as tf

    options = tf.saved_model.LoadOptions(experimental_skip_checkpoint=True)
    saved = tf.saved_model.load(str(folder / "model"), options=options)
    function = saved.signatures["serving_default"]
    map_weights(folder / WEIGHTS, snapshot.weights, function.variables)
    return function, saved


def listed(
    folder: Path, snapshot: Snapshot, batch_rows: int | None, jit_compile: bool | None = None
) -> tuple[Any, Any]:
    """The signature traced anew, from a list of tensors to a list of them, and what it lives in.

    A signature's own outputs are in the order of their names, "output_10" before "output_2".

    Its rows are free where the model leaves them so, or `batch_rows` of them; `jit_compile` is that of `tf.function`.
    """
    import tensorflow as tf

    function, saved = signature(folder, snapshot)
    specs = tensor_specs(snapshot.inputs, batch_rows)

    @tf.function(input_signature=specs, autograph=False, jit_compile=jit_compile)  # type: ignore[untyped-decorator]
    def traced(*tensors: Any) -> list[Any]:
        outputs = function(**{f"input_{number}": tensor for number, tensor in enumerate(tensors)})
        return [outputs[f"output_{number}"] for number in range(len(snapshot.outputs))]

    return traced.get_concrete_function(), (saved, traced)
