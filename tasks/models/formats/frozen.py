"""Reads frozen graphs, `.pb`: a GraphDef whose variables are constants; and makes programs of them.

    GraphDef --lift--> graph without its large constants, variables --import while tracing--> run

Constants of 64 KiB or more become variables, as snapshots share these between processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.models.formats.constants import give_constants
from tasks.models.formats.graph_def import lift_constants, name_functions_apart, part, split_name
from tasks.models.formats.tensor_names import some, tensor_names
from tasks.models.program import Program, flag_hint, output_spec_of, spec_of
from tasks.protocol.records import TensorSpec
from worker_config.manifest import ModelEntry

_VARIABLES = ("Variable", "VariableV2", "VarHandleOp")
_OLD_CONTROL_FLOW = ("Enter", "RefEnter", "Switch", "RefSwitch")
# Resources that live no longer than one call.
_OF_ONE_CALL = ("TensorArray", "Stack")


def open_graph(path: Path, entry: ModelEntry) -> Program:
    """The graph of a file, from `entry.inputs` to `entry.outputs`.

    Raises:
        ValueError: it is no frozen graph, or has no such tensors; the text names those that it has.
    """
    graph_def = read_graph(path, entry)
    inputs, outputs = tensor_names(graph_def, entry.inputs, entry.outputs)
    return frozen_program(graph_def, {name: name for name in inputs}, {name: name for name in outputs})


def read_graph(path: Path, entry: ModelEntry) -> Any:
    """The GraphDef of a file, with the constants of the manifest.

    Raises:
        ValueError: it is no frozen graph, or has no such placeholders.
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
    give_constants(graph_def, entry.constants)
    return graph_def


def frozen_program(graph_def: Any, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> Program:
    """Run a graph; its GraphDef loses its large constants.

    `inputs` and `outputs` say which tensors to feed and to fetch, by the names that rows and outputs have.

    Raises:
        ValueError: it is not frozen, or TensorFlow does not know its operations.
    """
    import tensorflow as tf

    name_functions_apart(graph_def)
    arrays = lift_constants(graph_def)
    graph, used = part(graph_def, outputs.values(), [*inputs.values(), *arrays])
    whole, _ = part(graph_def, [*inputs.values(), *outputs.values()])
    specs, output_specs = _specs(whole, {node.name for node in graph.node}, inputs, outputs)
    large = [name for name in arrays if name in used]
    # One at a time, so that there are never two of all.
    variables = {name: tf.Variable(arrays.pop(name), trainable=False, name=split_name(name)[0]) for name in large}
    feeds, fetches = list(inputs.values()), list(outputs.values())

    def run(*tensors: Any) -> list[Any]:
        known = dict(zip(feeds, tensors, strict=True)) | {n: variable.read_value() for n, variable in variables.items()}
        wanted = [name for name in fetches if name not in known]
        found = tf.graph_util.import_graph_def(
            graph, input_map={name: known[name] for name in used}, return_elements=wanted, name="model"
        )
        known |= dict(zip(wanted, found, strict=True))
        return [known[name] for name in fetches]

    call = run
    if graph.library.function or any(node.op in _OLD_CONTROL_FLOW for node in graph.node):
        # tf.function would not tell TensorFlow of functions that are imported, and it orders operations with edges of
        # its own, which must not lead into the loops of TensorFlow 1.
        signature = [tf.TensorSpec(spec.shape, spec.dtype) for spec in specs]
        call = tf.compat.v1.wrap_function(run, signature)
    return Program(specs, output_specs, run=lambda tensors: call(*tensors), variables=list(variables.values()))


def _specs(
    graph_def: Any, running: set[str], inputs: Mapping[str, str], outputs: Mapping[str, str]
) -> tuple[list[TensorSpec], list[TensorSpec]]:
    import tensorflow as tf

    with tf.Graph().as_default() as graph:
        tf.graph_util.import_graph_def(graph_def, name="")
    for operation in graph.get_operations():
        # Whoever is given a resource may pass it on.
        made = any(map(_is_state, operation.outputs)) and not any(map(_is_state, operation.inputs))
        if made and operation.name in running and not operation.type.startswith(_OF_ONE_CALL):
            raise ValueError(_why_not_frozen(operation))
    found = {}
    for name in (*inputs.values(), *outputs.values()):
        node, number = split_name(name)
        tensors = graph.get_operation_by_name(node).outputs
        if number >= len(tensors):
            raise ValueError(f"no tensor {name!r}; {node!r} has {some([tensor.name for tensor in tensors])}")
        found[name] = tensors[number]
    if unknown := [name for name in inputs.values() if found[name].shape.rank is None]:
        raise ValueError(f"{unknown[0]!r} has no known shape; {flag_hint(unknown[0])}")
    return (
        [spec_of(name, found[tensor]) for name, tensor in inputs.items()],
        [output_spec_of(name, found[tensor]) for name, tensor in outputs.items()],
    )


def _is_state(tensor: Any) -> bool:
    """Whether it is a resource, or a reference, whose type has a number that is 100 more than that of its values."""
    import tensorflow as tf

    return bool(tensor.dtype == tf.resource or tensor.dtype.as_datatype_enum > 100)


def _why_not_frozen(operation: Any) -> str:
    if operation.type in _VARIABLES:
        return f"the graph is not frozen: it has variables, such as {operation.name!r}; name its checkpoint's .meta"
    if "Table" in operation.type:
        return f"the graph has lookup tables, such as {operation.name!r}, which only a SavedModel can fill"
    return f"the graph keeps state, in {operation.name!r} ({operation.type}), which is not in its file"
