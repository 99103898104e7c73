"""Takes frozen graphs apart, as values: their ends, what an output needs, large constants, functions.

A tensor is named "node:0", as with Session.run; in a node's own inputs it stands as "node" or "node:1", and "^node"
is a node that must have run before.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from tasks.models.state import all_nodes

# In a node: what its outputs were taken for when it was written.
OUTPUT_SHAPES = "_output_shapes"
# Less is not worth a place of its own in a snapshot.
LARGE_BYTES = 64 * 2**10
# Nodes that nobody consumes, and that are no outputs either.
_NO_OUTPUTS = {"Const", "Placeholder", "NoOp", "Assert", "SaveV2", "ShardedFilename", "MergeV2Checkpoints"}

# What a graph does to a lookup table that is not filled once and for all.
TABLE_WRITES = frozenset(("LookupTableInsertV2", "LookupTableRemoveV2", "LookupTableImportV2"))
# What writes to variables: to references to their values, and to handles.
REFERENCE_WRITES = {"Assign", "AssignAdd", "AssignSub", "CountUpTo", "StridedSliceAssign"} | {
    f"Scatter{nd}{how}" for nd in ("", "Nd") for how in ("Add", "Div", "Max", "Min", "Mul", "Sub", "Update")
}
WRITES = REFERENCE_WRITES | {"AssignVariableOp", "AssignAddVariableOp", "AssignSubVariableOp"}


def split_name(tensor: str) -> tuple[str, int]:
    """Node and number of a tensor: "node:1", "node" or "^node" (which has the number -1)."""
    if tensor.startswith("^"):
        return tensor[1:], -1
    node, _, number = tensor.rpartition(":")
    return (node, int(number)) if node and number.isdigit() else (tensor, 0)


def placeholders(graph_def: Any) -> list[str]:
    """The tensors that must be fed."""
    return [f"{node.name}:0" for node in graph_def.node if node.op == "Placeholder"]


def ends(nodes: Iterable[Any]) -> list[str]:
    """The tensors of the nodes that no other of them consumes."""
    nodes = list(nodes)
    consumed = {split_name(source)[0] for node in nodes for source in node.input}
    return [f"{node.name}:0" for node in nodes if node.name not in consumed and node.op not in _NO_OUTPUTS]


def drop_shapes(graph_def: Any) -> None:
    """Forget the shapes that a graph was written with; TensorFlow finds most of them out again."""
    for node in all_nodes(graph_def):
        node.attr.pop(OUTPUT_SHAPES, None)


def lift_constants(graph_def: Any) -> dict[str, np.ndarray[Any, Any]]:
    """Take the large constants' values out of the graph, by tensor name; placeholders stand in for them."""
    import tensorflow as tf

    lifted = {}
    for node in graph_def.node:
        # One with an input belongs to the frame of a loop or a branch, which a value from outside would not know of.
        if node.op != "Const" or node.input:
            continue
        dtype, tensor = tf.as_dtype(node.attr["dtype"].type), node.attr["value"].tensor
        numbers = dtype.is_floating or dtype.is_integer or dtype.is_complex or dtype.is_bool
        count = math.prod(size.size for size in tensor.tensor_shape.dim)
        if dtype.is_quantized or not numbers or count * dtype.size < LARGE_BYTES:
            continue
        lifted[f"{node.name}:0"] = tf.make_ndarray(tensor)
        node.op = "Placeholder"
        node.attr["shape"].shape.CopyFrom(tensor.tensor_shape)
        del node.attr["value"]
    return lifted


def needs(graph_def: Any, wanted: Collection[str], fed: Collection[str] = ()) -> tuple[set[str], set[str]]:
    """The nodes that run for the wanted tensors, and which of those that are fed are asked for.

    Raises:
        ValueError: a node has an input that is not there.
    """
    nodes = {node.name: node for node in graph_def.node}
    fed_tensors = {split_name(tensor): tensor for tensor in fed}
    fed_nodes = {node for node, _ in fed_tensors}
    needed: set[str] = set()
    used: set[str] = set()
    waiting = [split_name(tensor) for tensor in wanted]
    while waiting:
        node, number = waiting.pop()
        if (node, number) in fed_tensors:
            used.add(fed_tensors[node, number])
        elif node not in nodes:
            raise ValueError(f"the graph is damaged: it has no node {node!r}, which others need")
        elif node not in needed and not (number < 0 and node in fed_nodes):
            needed.add(node)
            waiting += map(split_name, nodes[node].input)
    return needed, used


def running(graph_def: Any, wanted: Collection[str], functions: Iterable[str] = ()) -> dict[str, list[Any]]:
    """The nodes that run for the wanted tensors, or in these functions, by the function they are in; "" is the graph.

    Raises:
        ValueError: a node has an input that is not there.
    """
    needed, _ = needs(graph_def, wanted)
    scopes = {"": [node for node in graph_def.node if node.name in needed]}
    library = {one.signature.name: one for one in graph_def.library.function}
    waiting = [*functions, *called(scopes[""], library)]
    while waiting:
        name = waiting.pop()
        if name in library and name not in scopes:
            scopes[name] = list(library[name].node_def)
            waiting += called(scopes[name], library)
    return scopes


def called(nodes: Iterable[Any], library: Mapping[str, Any]) -> list[str]:
    """The functions that nodes call, or hand on."""
    names = [name for node in nodes for name in (node.op, *(one.name for one in functions_of(node.attr)))]
    return [name for name in names if name in library]


def part(graph_def: Any, wanted: Collection[str], fed: Collection[str] = ()) -> tuple[Any, set[str]]:
    """A graph of the nodes that `needs` finds, without edges from those that are fed; and which of these are used.

    Raises:
        ValueError: a node has an input that is not there.
    """
    needed, used = needs(graph_def, wanted, fed)
    result = type(graph_def)(versions=graph_def.versions, library=graph_def.library)
    for node in graph_def.node:
        if node.name in needed:
            kept = result.node.add()
            kept.CopyFrom(node)
            del kept.input[:]
            kept.input.extend(s for s in node.input if not s.startswith("^") or s[1:] in needed)
            # Where it ran when it was made, and beside which nodes, of which some are gone.
            kept.device = ""
            kept.attr.pop("_class", None)
    return result, used


def name_functions_apart(graph_def: Any) -> None:
    """Give the graph's functions names of their own: a process keeps one list of them for all its models."""
    if not graph_def.library.function:
        return
    mark = hashlib.sha256(graph_def.library.SerializeToString(deterministic=True)).hexdigest()[:16]
    names = {function.signature.name: f"{function.signature.name}_{mark}" for function in graph_def.library.function}
    for function in graph_def.library.function:
        function.signature.name = names[function.signature.name]
    for gradient in graph_def.library.gradient:
        gradient.function_name = names.get(gradient.function_name, gradient.function_name)
        gradient.gradient_func = names.get(gradient.gradient_func, gradient.gradient_func)
    for node in all_nodes(graph_def):
        node.op = names.get(node.op, node.op)
        for function in functions_of(node.attr):
            function.name = names.get(function.name, function.name)


def functions_of(attributes: Any) -> Iterator[Any]:
    """The functions that a node's attributes name."""
    for value in attributes.values():
        for function in [value.func] * value.HasField("func") + list(value.list.func):
            yield function
            yield from functions_of(function.attr)
