"""Reads SavedModel folders, one signature of each."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from tasks.models.error_text import telling_line
from tasks.models.formats.constants import constant_inputs
from tasks.models.formats.graph_def import REFERENCE_WRITES, TABLE_WRITES
from tasks.models.formats.sessions import freeze_saved_model
from tasks.models.program import Program, output_spec_of, plain_call, spec_of
from tasks.models.state import all_nodes, opened_again
from worker_config.manifest import ModelEntry

# What TensorFlow's loader says of an optimizer whose class it does not know.
_SLOTS = "add_slot"


def open_saved_model(path: Path, entry: ModelEntry) -> Program:
    """The signature `entry.signature` of a SavedModel.

    One without an object graph, as TensorFlow 1 writes them, is frozen, because it could be run as it is, but not
    saved again; one with an optimizer of Keras 2 is, because its object graph cannot be made again without Keras 2.

    Raises:
        ValueError: it is no SavedModel, or has no such signature; the text names those that it has.
    """
    meta = read_meta_graph(path, entry.signature)
    tags = list(meta.meta_info_def.tags)
    if meta.HasField("object_graph_def"):
        try:
            return _reopened(
                path, entry, None, TABLE_WRITES, "it writes to a lookup table, so each chunk opens it anew"
            )
        except AttributeError as error:
            if not keeps_optimizer(meta) or _SLOTS not in str(error):
                raise
        return _without_optimizer(path, tags, entry)
    try:
        return freeze_saved_model(path, tags, entry.signature, entry.constants)
    except Exception as error:
        why = f"it has no object graph, and cannot be frozen: {telling_line(error)}"
        # Variables of TensorFlow 1 may be references: these are in the graph, and out of reach.
        bare = msgspec.structs.replace(entry, constants={})  # which names tensors, not inputs
        return dataclasses.replace(_reopened(path, bare, tags, REFERENCE_WRITES, ""), why_plain=why)


def keeps_optimizer(meta: Any) -> bool:
    """Whether a SavedModel was saved with an optimizer of Keras 2, of which its object graph tells."""
    return any(node.slot_variables for node in meta.object_graph_def.nodes)


def _without_optimizer(path: Path, tags: Sequence[str], entry: ModelEntry) -> Program:
    try:
        return freeze_saved_model(path, tags, entry.signature, entry.constants)
    except Exception as error:
        raise ValueError(
            "it was saved with its Keras 2 optimizer, which TensorFlow cannot load without Keras 2, and it cannot be "
            f"frozen ({telling_line(error)}); save it anew with include_optimizer=False"
        ) from error


def read_meta_graph(path: Path, signature: str) -> Any:
    """The graph of a SavedModel that is served, with what is said of it; raises ValueError as `open_saved_model`."""
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    try:
        form = SavedModel.FromString((path / "saved_model.pb").read_bytes())
    except DecodeError:
        raise ValueError("not a SavedModel: its saved_model.pb is damaged") from None
    graphs = [graph for graph in form.meta_graphs if "serve" in graph.meta_info_def.tags] or list(form.meta_graphs)
    if not graphs:
        raise ValueError("not a SavedModel: its saved_model.pb holds no graph")
    _check_signature(signature, graphs[0].signature_def)
    return graphs[0]


def _reopened(
    path: Path, entry: ModelEntry, tags: Sequence[str] | None, writes: Collection[str], why_plain: str
) -> Program:
    """The program; opened again for each chunk if its graph has one of the operations that write."""
    program = _plain(path, entry, tags)
    call = plain_call(program)
    nodes = all_nodes(call.function.graph.as_graph_def())  # type: ignore[attr-defined]
    if not any(node.op in writes for node in nodes):
        return program
    call = opened_again(lambda: plain_call(_plain(path, entry, tags)), call)
    return Program(program.inputs, program.outputs, call=call, why_plain=why_plain)


def _plain(path: Path, entry: ModelEntry, tags: Sequence[str] | None) -> Program:
    import tensorflow as tf

    saved = tf.saved_model.load(str(path), tags=tags)
    _check_signature(entry.signature, saved.signatures)
    function = saved.signatures[entry.signature]
    given = function.structured_input_signature[1]
    constants = constant_inputs(given, entry.constants)
    inputs = [spec_of(name, spec) for name, spec in sorted(given.items()) if name not in constants]
    outputs = [output_spec_of(name, spec) for name, spec in sorted(function.structured_outputs.items())]

    def run(tensors: Sequence[Any]) -> Sequence[Any]:
        fed = {name: tf.constant(array, given[name].dtype) for name, array in constants.items()}
        fed |= {spec.name: tensor for spec, tensor in zip(inputs, tensors, strict=True)}
        result = function(**fed)
        return [result[spec.name] for spec in outputs]

    return Program(inputs, outputs, run=run, variables=function.variables, tracked=saved)


def _check_signature(signature: str, known: Iterable[str]) -> None:
    names = sorted(name for name in known if not name.startswith("__saved_model"))
    if signature not in names:
        raise ValueError(f"no signature {signature!r}; it has: {', '.join(names) or 'none'}")
