"""Where a graph may make of finite rows what is not finite: log(0), 1 / 0, exp(100), a mask of -infinity.

    bodies of a graph --nodes that depend on the rows--> hazards: operations whose argument nothing keeps within bounds

Some executors give the graph's own values only for finite ones. Rows that are not finite are found before they run;
what arises inside is found here, once, from the graph. An argument is safe where the graph itself keeps it so: a
variance plus an epsilon below a root, a maximum subtracted before an exponential.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from tasks.executors.graph_bodies import Body

# By operation: which of its arguments must be of what kind for its value to be finite.
_NEEDS = {
    "Log": (0, "positive"),
    "Rsqrt": (0, "positive"),
    "Reciprocal": (0, "positive"),
    "Inv": (0, "positive"),
    "Log1p": (0, "not_negative"),
    "Sqrt": (0, "not_negative"),
    "RealDiv": (1, "positive"),
    "Div": (1, "positive"),
    "FloorDiv": (1, "positive"),
    "FloorMod": (1, "positive"),
    "Mod": (1, "positive"),
    "TruncateMod": (1, "positive"),
    "Xdivy": (1, "positive"),
    "Exp": (0, "bounded_above"),
    "Expm1": (0, "bounded_above"),
}
# Of these no argument is safe that could be told from the graph.
_ALWAYS = frozenset(
    """
    Acos Acosh Asin Atanh Betainc Cholesky Cosh Cumprod CumulativeLogsumexp Digamma Erfinv Igamma IgammaGradA
    Igammac Lgamma LogMatrixDeterminant MatrixDeterminant MatrixInverse MatrixSolve MatrixTriangularSolve Ndtri
    Polygamma Pow Prod SegmentMean Sinh Tan Xlog1py Xlogy Zeta
    """.split()
)
# They give one of their arguments' values, or a mean of them, so are of its kind; the others tell of shapes.
_SAME = frozenset(
    """
    AvgPool AvgPool3D BroadcastTo Cast ExpandDims GatherV2 Identity Max MaxPool Mean Min Reshape Slice Snapshot
    Squeeze StopGradient StridedSlice Tile Transpose
    """.split()
)
_NEVER_NEGATIVE = frozenset(
    """
    Abs Erfc Exp L2Loss Relu Relu6 Sigmoid Softmax Softplus Sqrt Square SquaredDifference
    """.split()
)
_SOURCES_OF_WEIGHTS = frozenset(
    """
    Const ReadVariableOp ResourceGather VarHandleOp VariableV2
    """.split()
)

_INTEGERS = frozenset((3, 4, 5, 6, 9, 17, 22, 23))  # as TensorFlow numbers them

Values = Callable[[Any], Any]


def hazards(bodies: Iterable[Body], values: Values) -> tuple[str, ...]:
    """The operations that may give what is not finite for finite rows, each once, sorted; empty where none may.

    Args:
        bodies: of the graph, as `graph_bodies` finds them.
        values: from a Const node to its array, None where it holds no floats.
    """
    return tuple(sorted({found for body in bodies for found in _Look(body, values).found()}))


class _Look:
    def __init__(self, body: Body, values: Values) -> None:
        self._body, self._values = body, values
        self._known: dict[tuple[str, str], bool] = {}

    def found(self) -> Iterable[str]:
        for node in self._body.nodes.values():
            self._is_of_rows(node.name)  # in the order of the graph, so that nothing recurses deeply
            if node.op == "Const":
                array = self._values(node)
                if array is not None and array.size and not _finite(array):
                    yield "a constant that is not finite"
            elif node.attr["T"].type in _INTEGERS:
                continue
            elif node.op in _ALWAYS and self._is_of_rows(node.name):
                yield node.op
            elif node.op in _NEEDS:
                place, kind = _NEEDS[node.op]
                source = self._inputs(node)[place]
                if self._is_of_rows(source) and not self._is(kind, source):
                    yield node.op

    def _inputs(self, node: Any) -> list[str]:
        return [name.split(":")[0] for name in node.input if not name.startswith("^")]

    def _is_of_rows(self, name: str) -> bool:
        """Whether a value depends on the rows, and not on weights alone."""
        return self._remembered("of_rows", name)

    def _is(self, kind: str, name: str) -> bool:
        return self._remembered(kind, name)

    def _remembered(self, kind: str, name: str) -> bool:
        key = kind, name
        if key not in self._known:
            self._known[key] = False  # a loop proves nothing
            self._known[key] = bool(getattr(self, f"_{kind}")(name))
        return self._known[key]

    def _of_rows(self, name: str) -> bool:
        node = self._body.nodes.get(name)
        if node is None:
            return name in self._body.arguments
        if node.op in _SOURCES_OF_WEIGHTS:
            return False
        return node.op == "Placeholder" or any(map(self._is_of_rows, self._inputs(node)))

    def _positive(self, name: str) -> bool:
        node, sources = self._node(name)
        if node is None:
            return False
        if node.op == "Const":
            return self._constant(node, lambda array: array.min() > 0)
        if node.op in ("AddV2", "Add", "BiasAdd"):
            pairs = [(sources[0], sources[1]), (sources[1], sources[0])]
            return any(self._is("positive", a) and self._is("not_negative", b) for a, b in pairs)
        if node.op == "Maximum":
            return any(self._is("positive", source) for source in sources)
        if node.op == "ClipByValue":
            return self._is("positive", sources[1])
        if node.op in ("Mul", "Minimum"):
            return all(self._is("positive", source) for source in sources)
        return node.op in _SAME and self._is("positive", sources[0])

    def _not_negative(self, name: str) -> bool:
        node, sources = self._node(name)
        if node is None:
            return False
        if node.op in _NEVER_NEGATIVE:
            return True
        if node.op == "Const":
            return self._constant(node, lambda array: array.min() >= 0)
        if node.op == "Mul" and sources[0] == sources[1]:
            return True
        if node.op in ("Mul", "AddV2", "Add", "RealDiv", "Minimum"):
            return all(self._is("not_negative", source) for source in sources)
        if node.op == "Maximum":
            return any(self._is("not_negative", source) for source in sources)
        if node.op == "ClipByValue":
            return self._is("not_negative", sources[1])
        if node.op == "Sum":
            return self._is("not_negative", sources[0])
        return self._is("positive", name) or (node.op in _SAME and self._is("not_negative", sources[0]))

    def _bounded_above(self, name: str) -> bool:
        """Whether a value is at most 80, so that its exponential is finite in float32."""
        node, sources = self._node(name)
        if node is None:
            return False
        if node.op == "Const":
            return self._constant(node, lambda array: array.max() <= 80)
        if node.op == "Neg":
            return self._is("not_negative", sources[0])
        if node.op == "Minimum":
            return any(self._is("bounded_above", source) for source in sources)
        if node.op == "ClipByValue":
            return self._is("bounded_above", sources[2])
        if node.op in ("Sigmoid", "Softmax", "Tanh", "Relu6"):
            return True
        if node.op == "Sub":  # the largest value of the same tensor, subtracted
            largest, what = self._node(sources[1])
            while largest is not None and largest.op in ("StopGradient", "Identity", "Reshape"):
                largest, what = self._node(what[0])
            return largest is not None and largest.op == "Max" and what[0] == sources[0]
        if node.op == "Mul":
            pairs = [(sources[0], sources[1]), (sources[1], sources[0])]
            return any(self._negative_constant(a) and self._is("not_negative", b) for a, b in pairs)
        return node.op in _SAME and self._is("bounded_above", sources[0])

    def _negative_constant(self, name: str) -> bool:
        node, _ = self._node(name)
        return node is not None and node.op == "Const" and self._constant(node, lambda array: array.max() <= 0)

    def _node(self, name: str) -> tuple[Any, list[str]]:
        node = self._body.nodes.get(name)
        return node, self._inputs(node) if node is not None else []

    def _constant(self, node: Any, holds: Callable[[Any], bool]) -> bool:
        array = self._values(node)
        return array is not None and array.size > 0 and bool(holds(array))


def constant_values(node: Any) -> Any:
    """The array of a Const node that holds floats; None of any other."""
    import tensorflow as tf

    tensor = node.attr["value"].tensor
    return tf.make_ndarray(tensor).astype(np.float64) if tf.dtypes.as_dtype(tensor.dtype).is_floating else None


def _finite(array: Any) -> bool:
    return bool(np.isfinite(array).all())
