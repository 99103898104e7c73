"""Finds the tensors of a graph that are to be fed and fetched, or says which there are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tasks.models.formats.graph_def import ends, needs, placeholders, split_name

_LISTED = 10


def tensor_names(graph_def: Any, inputs: Sequence[str], outputs: Sequence[str]) -> tuple[list[str], list[str]]:
    """The tensors to feed and to fetch; where none are named, those that leave no choice.

    Raises:
        ValueError: there is no such tensor, none leaves no choice, or one must be fed that is not named; the text
            says which there are.
    """
    nodes = {node.name for node in graph_def.node}
    fed, last = placeholders(graph_def), ends(graph_def)
    if not nodes:
        raise ValueError("the graph is empty")
    if not outputs and len(last) != 1:
        raise ValueError(f"which outputs to take is not clear; name some in outputs; the graph ends in {some(last)}")
    outputs = list(outputs) or last
    for name in outputs:
        if split_name(name)[0] not in nodes or name.startswith("^"):
            raise ValueError(f"no tensor {name!r} for outputs; the graph ends in {some(last)}")
    for name in inputs:
        if split_name(name)[0] not in nodes or name.startswith("^"):
            raise ValueError(f"no tensor {name!r} for inputs; the graph's placeholders are {some(fed)}")
    _, needed = needs(graph_def, outputs, fed)
    if not inputs:
        if not needed:
            raise ValueError("the outputs need no placeholder; name the tensors to feed in inputs")
        return [name for name in fed if name in needed], outputs
    missing = needs(graph_def, outputs, [*fed, *inputs])[1] - set(inputs)
    if missing:
        raise ValueError(f"the outputs need {some(sorted(missing))} too, which inputs does not name")
    return list(inputs), outputs


def some(names: Sequence[str]) -> str:
    """Names for an error, of which there may be thousands."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return (", ".join(map(repr, names[:_LISTED])) + more) or "nothing"
