"""Which operations of a graph cannot come to where runtimes differ, whatever the rows are.

variance + 0.001 --> Rsqrt: never of 0
erfc(-x) * x     --> GELU: what 1 - erf(-x) loses of a small erfc, as some compute it, is nothing beside x
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

ANY, NOT_NEGATIVE, POSITIVE = 0, 1, 2
LEAST = 1e-30  # what is smaller may be lost on the way
_DEEPEST = 24
_PASSED_ON = frozenset((
    "Identity", "StopGradient", "Reshape", "ExpandDims", "Squeeze", "Transpose", "BroadcastTo", "StridedSlice", "Slice",
    "Tile", "GatherV2", "Sqrt", "Max", "Min", "Mean", "Pack",
))  # fmt: skip
_NEVER_NEGATIVE = frozenset((
    "Square", "SquaredDifference", "Abs", "ComplexAbs", "Relu", "Relu6", "Exp", "Sigmoid", "Softmax", "Softplus",
))  # fmt: skip
_FLOATS = {1: np.float32, 2: np.float64, 19: np.float16}


def sign_of(nodes: Mapping[str, Any], tensor: str, depth: int = 0) -> int:
    """`POSITIVE`, `NOT_NEGATIVE`, or `ANY` where it is not known; of finite rows.

    `nodes` are those of the graph or the function, by name; `tensor` is named as an input of a node.
    """
    node = nodes.get(tensor.partition(":")[0])
    if node is None or depth > _DEEPEST:
        return ANY
    op = node.op
    if op == "Const":
        values = constant(node)
        least = -1.0 if values is None else values.min()
        return POSITIVE if least >= LEAST else NOT_NEGATIVE if least >= 0 else ANY
    if op in _NEVER_NEGATIVE:
        return NOT_NEGATIVE
    inputs = [name for name in node.input if not name.startswith("^")]
    if op == "Mul" and inputs[0] == inputs[1]:
        return NOT_NEGATIVE
    if op in _PASSED_ON or op == "Sum" or (op == "Cast" and node.attr["SrcT"].type in _FLOATS):
        found = sign_of(nodes, inputs[0], depth + 1)
        # A mean of many, or half of a small one, may be smaller than `LEAST`.
        return found if op in _PASSED_ON else min(found, NOT_NEGATIVE)
    if op in ("Add", "AddV2", "Maximum", "Minimum", "Mul", "RealDiv"):
        left, right = (sign_of(nodes, name, depth + 1) for name in inputs[:2])
        if op == "Maximum":
            return max(left, right)
        least = min(left, right)
        if op in ("Add", "AddV2"):
            return ANY if least == ANY else max(left, right)
        if op == "Minimum":
            return least
        return min(least, NOT_NEGATIVE) if op == "Mul" or right == POSITIVE else ANY
    return ANY


def is_of_gelu(nodes: Mapping[str, Any], node: Any, wanted: Sequence[str]) -> bool:
    """Whether an operation's only use is to be multiplied by a multiple of its own argument; `wanted` are outputs."""
    outputs = {name.removeprefix("^").partition(":")[0] for name in wanted}
    uses = [one for one in nodes.values() if any(name.partition(":")[0] == node.name for name in one.input)]
    argument = _multiplied(nodes, node.input[0])
    return bool(uses) and node.name not in outputs and all(_is_product_with(nodes, one, argument) for one in uses)


def _is_product_with(nodes: Mapping[str, Any], node: Any, argument: str) -> bool:
    return node.op == "Mul" and argument in [_multiplied(nodes, name) for name in node.input]


def _multiplied(nodes: Mapping[str, Any], tensor: str) -> str:
    """The tensor that one is a constant multiple of; itself where it is none."""
    while node := nodes.get(tensor.partition(":")[0]):
        inputs = [name for name in node.input if not name.startswith("^")]
        fixed = [name for name in inputs if (one := nodes.get(name.partition(":")[0])) and one.op == "Const"]
        others = [name for name in inputs if name not in fixed]
        if len(others) != 1 or not (node.op == "Neg" or (node.op == "Mul" and fixed)):
            break
        tensor = others[0]
    return tensor


def constant(node: Any) -> Any:
    """The numbers of a float constant; None of any other, or of none."""
    tensor = node.attr["value"].tensor
    dtype = _FLOATS.get(tensor.dtype)
    if dtype is None:
        return None
    if tensor.tensor_content:
        values = np.frombuffer(tensor.tensor_content, dtype)
    elif tensor.half_val:
        values = np.array(tensor.half_val, np.uint16).view(np.float16)
    else:
        values = np.array(tensor.float_val or tensor.double_val, dtype)
    return values if values.size else None
