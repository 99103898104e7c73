"""Puts values in the place of what a graph or a signature takes and is no rows: a flag such as `is_training`.

GraphDef, {"is_training:0": false} --> the same graph with a constant node of that name, without what it rules out
inputs of a signature, {"training": false} --> {"training": array}

So noise and updates of a branch that is for training do not run, and are not taken to run.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np

from tasks.models.formats.graph_def import split_name
from tasks.models.formats.tensor_names import some
from worker_config.manifest import Constant

_PLACEHOLDERS = ("Placeholder", "PlaceholderV2", "PlaceholderWithDefault")


def give_constants(graph_def: Any, constants: Mapping[str, Constant]) -> None:
    """Change a graph; what need not be fed any more is no input.

    Raises:
        ValueError: there is no such placeholder, it is one of rows, or holds no such value.
    """
    nodes = {node.name: node for node in graph_def.node if node.op in _PLACEHOLDERS}
    for name, value in constants.items():
        node, number = split_name(name)
        if node not in nodes or number:
            known = some([f"{node}:0" for node in nodes])
            raise ValueError(f"no placeholder {name!r} for constants; the graph's are {known}")
        _become_constant(nodes[node], name, value)
    if constants:
        _take_branches(graph_def)


def constant_inputs(inputs: Mapping[str, Any], constants: Mapping[str, Constant]) -> dict[str, Any]:
    """The values of those of a signature's inputs that get one, as arrays.

    Raises:
        ValueError: there is no such input, it is one of rows, or holds no such value.
    """
    if unknown := [name for name in constants if name not in inputs]:
        raise ValueError(f"no input {unknown[0]!r} for constants; the signature's are {some(sorted(inputs))}")
    return {name: _array(name, value, inputs[name].dtype, inputs[name].shape) for name, value in constants.items()}


def check_no_constants(constants: Mapping[str, Constant]) -> None:
    """Refuse them for a model that has neither placeholders nor a signature; raises ValueError where there are some."""
    if constants:
        raise ValueError(
            "constants are for .pb and .meta files, and for SavedModels, but for those with the optimizer of Keras 2"
        )


def _become_constant(node: Any, name: str, value: Constant) -> None:
    import tensorflow as tf

    dtype = tf.as_dtype(node.attr["dtype"].type)
    sizes = [size.size for size in node.attr["shape"].shape.dim]
    array = _array(name, value, dtype, tf.TensorShape([None if size == -1 else size for size in sizes]))
    node.op = "Const"
    del node.input[:]
    node.attr.clear()
    node.attr["dtype"].type = dtype.as_datatype_enum
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(array, dtype))


def _array(name: str, value: Constant, dtype: Any, shape: Any) -> Any:
    if not shape.is_fully_defined():
        raise ValueError(f"constants give {name!r}, which has rows; it is an input")
    if not _fits(dtype, value):
        raise ValueError(f"constants give {name!r} the value {value!r}, and it is of {dtype.name}")
    return np.full(shape.as_list(), value, object if dtype.name == "string" else dtype.as_numpy_dtype)


def _fits(dtype: Any, value: Constant) -> bool:
    if dtype.is_bool or isinstance(value, bool):
        return bool(dtype.is_bool) and isinstance(value, bool)
    if isinstance(value, str):
        return bool(dtype.name == "string")
    if dtype.is_integer:
        return isinstance(value, int) and bool(dtype.min <= value <= dtype.max)
    return bool(dtype.is_floating or dtype.is_complex)


def _take_branches(graph_def: Any) -> None:
    """Where a constant decides which branch of a condition runs, its end is the end of that branch alone."""
    nodes = {node.name: node for node in graph_def.node}
    taken = {node.name: _decided(node, nodes) for node in graph_def.node if node.op == "Switch"}
    consumers: dict[str, list[tuple[Any, int]]] = defaultdict(list)
    for node in graph_def.node:
        for source, number in map(split_name, node.input):
            consumers[source].append((node, number))
    dead: set[str] = set()

    def is_dead(tensor: str) -> bool:
        source, number = split_name(tensor)
        return source in dead or number == _other(taken.get(source))

    def ends_meeting(merge: Any) -> list[str]:
        """Without what goes round a loop, which begins elsewhere."""
        return [source for source in merge.input if nodes[split_name(source)[0]].op != "NextIteration"]

    waiting = [one for name, way in taken.items() for one, number in consumers[name] if number == _other(way)]
    while waiting:
        node = waiting.pop()
        if node.name not in dead and (node.op != "Merge" or all(map(is_dead, ends_meeting(node)))):
            dead.add(node.name)
            waiting += [one for one, _ in consumers[node.name]]
    for node in graph_def.node:
        if node.op != "Merge" or any(number == 1 for _, number in consumers[node.name]):
            continue
        live = [source for source in node.input if not is_dead(source)]
        if len(live) == 1 and len(ends_meeting(node)) == len(node.input):
            node.op = "Identity"
            node.input[:] = live
            node.attr.pop("N", None)


def _other(way: int | None) -> int | None:
    return None if way is None else 1 - way


def _decided(switch: Any, nodes: Mapping[str, Any]) -> int | None:
    """Which output of a switch runs; None where that is found out by running it."""
    import tensorflow as tf

    node = nodes.get(split_name(switch.input[1])[0])
    while node is not None and node.op == "Identity":
        node = nodes.get(split_name(node.input[0])[0])
    return int(tf.make_ndarray(node.attr["value"].tensor)) if node is not None and node.op == "Const" else None
