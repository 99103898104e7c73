"""Reads what TensorFlow 1 wrote with variables, and freezes it in a session of its own.

.meta, .index, .data-*                    checkpoint and its graph
SavedModel folder without object graph    one signature of it; or with one that holds an optimizer of Keras 2
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tasks.models.error_text import telling_line
from tasks.models.formats.constants import give_constants
from tasks.models.formats.frozen import frozen_program
from tasks.models.formats.graph_def import OUTPUT_SHAPES, WRITES, drop_shapes, running, split_name
from tasks.models.formats.tensor_names import tensor_names
from tasks.models.program import Program
from worker_config.manifest import Constant, ModelEntry


def open_checkpoint(path: Path, entry: ModelEntry) -> Program:
    """The graph of a `.meta` file with its checkpoint's values, from `entry.inputs` to `entry.outputs`.

    Raises:
        ValueError: no checkpoint beside it, no graph in it, one that writes to its variables, or no such tensors; the
            text names those that it has.
    """
    meta = read_meta(path, entry)
    with _session() as session:
        try:
            saver = _imported(meta)
        except Exception as error:
            raise ValueError(f"not a .meta file that TensorFlow reads ({telling_line(error)})") from error
        graph_def = session.graph.as_graph_def()
        inputs, outputs = tensor_names(graph_def, entry.inputs, entry.outputs)
        if saver is not None:
            saver.restore(session, str(path).removesuffix(".meta"))
        frozen = _frozen(session, graph_def, [*inputs, *outputs])
    return frozen_program(frozen, {name: name for name in inputs}, {name: name for name in outputs})


def _imported(meta: Any) -> Any:
    """The saver of a graph that becomes the default one, without shapes that it was written with, if they are wrong."""
    import tensorflow as tf

    try:
        return tf.compat.v1.train.import_meta_graph(meta, clear_devices=True)
    except ValueError as error:
        # What an old TensorFlow took for the shapes of its gradients, a new one may not; it finds all out again.
        if OUTPUT_SHAPES not in str(error):
            raise
    drop_shapes(meta.graph_def)
    return tf.compat.v1.train.import_meta_graph(meta, clear_devices=True)


def read_meta(path: Path, entry: ModelEntry) -> Any:
    """The graph of a `.meta` file, with the constants of the manifest and what is said of it.

    Raises:
        ValueError: no checkpoint beside it, no graph in it, or it has no such placeholders.
    """
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf.meta_graph_pb2 import MetaGraphDef

    index = path.with_name(f"{path.name.removesuffix('.meta')}.index")
    if not index.is_file():
        raise ValueError(f"no checkpoint beside it: {index.name} is missing")
    try:
        meta = MetaGraphDef.FromString(path.read_bytes())
    except DecodeError as error:
        raise ValueError(f"not a .meta file that TensorFlow reads ({error})") from None
    give_constants(meta.graph_def, entry.constants)
    return meta


def freeze_saved_model(path: Path, tags: Sequence[str], signature: str, constants: Mapping[str, Constant]) -> Program:
    """One signature of a SavedModel, read as TensorFlow 1 reads it: without what else its object graph holds.

    Raises:
        Exception: it cannot be frozen; ValueError where its graph keeps state besides its variables.
    """
    import tensorflow as tf

    with _session() as session:
        loaded = tf.compat.v1.saved_model.load(session, list(tags), str(path), clear_devices=True)
        form = loaded.signature_def[signature]
        inputs = {name: form.inputs[name].name for name in sorted(form.inputs)}
        outputs = {name: form.outputs[name].name for name in sorted(form.outputs)}
        if not all((*inputs.values(), *outputs.values())):
            raise ValueError("some of its tensors are sparse")
        graph_def = session.graph.as_graph_def()
        give_constants(graph_def, constants)
        inputs = {name: tensor for name, tensor in inputs.items() if tensor not in constants}
        tensor_names(graph_def, list(inputs.values()), list(outputs.values()))
        frozen = _frozen(session, graph_def, [*inputs.values(), *outputs.values()])
    return frozen_program(frozen, inputs, outputs)


@contextmanager
def _session() -> Iterator[Any]:
    import tensorflow as tf

    logger = tf.get_logger()
    level = logger.level
    logger.setLevel(logging.ERROR)  # it calls all of this deprecated, and tells of each step
    try:
        with tf.Graph().as_default() as graph, tf.compat.v1.Session(graph=graph) as session:
            yield session
    finally:
        logger.setLevel(level)


def _frozen(session: Any, graph_def: Any, tensors: Sequence[str]) -> Any:
    import tensorflow as tf

    nodes_running = [node for nodes in running(graph_def, tensors).values() for node in nodes]
    # As a constant a variable would keep its value, and the write would be gone without a word.
    if writing := next((node for node in nodes_running if node.op in WRITES), None):
        raise ValueError(f"the graph writes to a variable, in {writing.name!r} ({writing.op})")
    nodes = list(dict.fromkeys(split_name(tensor)[0] for tensor in tensors))
    return tf.compat.v1.graph_util.convert_variables_to_constants(session, graph_def, nodes)
