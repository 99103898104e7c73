"""Finds the tensors of a graph that are to be fed and fetched, or says which there are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from tasks.models.formats.graph_def import drop_shapes, ends, needs, placeholders, split_name
from tasks.models.program import flag_hint
from worker_config.foreign_errors import some_of

_LISTED = 10
_FEW = 5
# Scopes that TensorFlow 1 itself gives to what trains a model, measures it and saves it.
_TRAINING = re.compile(
    r"(^|/)(gradients|save|init|report_uninitialized_variables|global_step|Adam|Adagrad|Adadelta|Ftrl|RMSProp|Momentum|"
    r"GradientDescent|ExponentialMovingAverage|Assign|\w*Summary)(_\d+)*(/|:|$)"
)


def tensor_names(graph_def: Any, inputs: Sequence[str], outputs: Sequence[str]) -> tuple[list[str], list[str]]:
    """The tensors to feed and to fetch; where none are named, those that leave no choice.

    Raises:
        ValueError: there is no such tensor, none leaves no choice, or one must be fed that is not named; the text
            says which there are.
    """
    nodes = {node.name for node in graph_def.node}
    fed, last = placeholders(graph_def), ends(graph_def.node)
    if not nodes:
        raise ValueError("the graph is empty")
    if not outputs and len(last) != 1:
        likely = _likely(graph_def, last)
        raise ValueError(f"which outputs to take is not clear; name some in outputs; the graph ends in {likely}")
    outputs = list(outputs) or last
    for name in outputs:
        if split_name(name)[0] not in nodes or name.startswith("^"):
            raise ValueError(f"no tensor {name!r} for outputs; the graph ends in {_likely(graph_def, last)}")
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
        raise ValueError(
            f"the outputs need {some(sorted(missing))} too, which inputs does not name; {flag_hint(min(missing))}"
        )
    return list(inputs), outputs


def some(names: Sequence[str], listed: int = _LISTED) -> str:
    """Names for an error, of which there may be thousands."""
    return some_of(map(repr, names), listed) or "nothing"


def _likely(graph_def: Any, last: Sequence[str]) -> str:
    """The ends of a graph that look like predictions, with rows and nothing of its training, floats first; else all."""
    forms = _forms(graph_def)
    of_model = ends(node for node in graph_def.node if not _TRAINING.search(node.name))
    likely = [name for name in of_model if forms.get(name, (False, True))[0]]
    return some(sorted(likely, key=lambda name: not forms[name][1]) or of_model or last, _FEW)


def _forms(graph_def: Any) -> dict[str, tuple[bool, bool]]:
    """By tensor, whether it may have rows, and whether it is of floats."""
    import tensorflow as tf

    with tf.Graph().as_default() as graph:
        try:
            plain = type(graph_def).FromString(graph_def.SerializeToString())
            drop_shapes(plain)
            tf.graph_util.import_graph_def(plain, name="")
        except Exception:  # the order of a hint is not worth another error
            return {}
        found = [tensor for operation in graph.get_operations() for tensor in operation.outputs]
    return {one.name: (not one.shape[:1].is_fully_defined(), one.dtype.is_floating) for one in found}
