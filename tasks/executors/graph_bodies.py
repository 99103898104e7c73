"""The graph that a snapshot's signature runs: its own nodes, and those of every function that it reaches.

    model/saved_model.pb --signature--> function --call, while, if--> functions --> a Body for each

The file holds more: whatever saves and restores variables, and functions of other signatures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SIGNATURE = "serving_default"
_RESOURCE = 20  # as TensorFlow numbers it: variables and tables


@dataclass(frozen=True)
class Body:
    """The nodes of a function by name, and those of its arguments that hold data."""

    nodes: Mapping[str, Any]
    arguments: frozenset[str]


def graph_bodies(folder: Path) -> list[Body]:
    """What the model of a snapshot runs.

    Args:
        folder: the snapshot's.

    Raises:
        ValueError: its model has no such signature.
    """
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    graph = SavedModel.FromString((folder / "model" / "saved_model.pb").read_bytes()).meta_graphs[0]
    signature = graph.signature_def.get(_SIGNATURE)
    if signature is None:
        raise ValueError(f"the model of {folder} has no signature {_SIGNATURE}")
    nodes = {node.name: node for node in graph.graph_def.node}
    functions = {function.signature.name: function for function in graph.graph_def.library.function}
    wanted = [info.name.split(":")[0] for info in signature.outputs.values()]
    reached = {name: nodes[name] for name in _ancestors(nodes, wanted)}
    bodies, names = [Body(reached, frozenset())], list(_called(reached))
    seen = set(names)
    for name in names:  # which grows meanwhile
        function = functions.get(name)
        if function is None:
            continue
        inside = {node.name: node for node in function.node_def}
        data = frozenset(one.name for one in function.signature.input_arg if one.type != _RESOURCE)
        bodies.append(Body(inside, data))
        more = [called for called in _called(inside) if called not in seen]
        seen.update(more)
        names += more
    return bodies


def _ancestors(nodes: Mapping[str, Any], names: list[str]) -> list[str]:
    found = dict.fromkeys(names)
    queue = list(names)
    while queue:
        for source in nodes[queue.pop()].input:
            name = source.lstrip("^").split(":")[0]
            if name not in found:
                found[name] = None
                queue.append(name)
    return list(found)


def _called(nodes: Mapping[str, Any]) -> Iterator[str]:
    """The functions that nodes call, in whatever form; each may come more than once."""
    for node in nodes.values():
        for value in node.attr.values():
            if value.HasField("func"):
                yield value.func.name
            yield from (one.name for one in value.list.func)
