"""Reads frozen graphs, `.pb`: a GraphDef whose variables are constants."""

from __future__ import annotations

from pathlib import Path

from tasks.models.formats.frozen import frozen_program
from tasks.models.formats.tensor_names import tensor_names
from tasks.models.program import Program
from worker_config.manifest import ModelEntry


def open_graph(path: Path, entry: ModelEntry) -> Program:
    """The graph of a file, from `entry.inputs` to `entry.outputs`.

    Raises:
        ValueError: it is no frozen graph, or has no such tensors; the text names those that it has.
    """
    import tensorflow as tf
    from google.protobuf.message import DecodeError

    if path.name == "saved_model.pb":
        raise ValueError("this file is part of a SavedModel; name its folder instead")
    graph_def = tf.compat.v1.GraphDef()
    try:
        graph_def.ParseFromString(path.read_bytes())
    except DecodeError:
        raise ValueError("not a frozen graph: its bytes are no GraphDef") from None
    inputs, outputs = tensor_names(graph_def, entry.inputs, entry.outputs)
    return frozen_program(graph_def, {name: name for name in inputs}, {name: name for name in outputs})
