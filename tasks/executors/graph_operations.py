"""Which operations a served graph computes on its rows, each as a key of the table by operation.

    saved_model.pb --signature, functions, loops, branches--> nodes whose values depend on the rows --> keys

Left out is what gives the same for every row: weights, constants, shapes, and what is computed of these alone. The gate
compares it with the first batch, and no later row changes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tasks.executors.sign_analysis import POSITIVE, constant, is_of_gelu, sign_of
from tasks.models.state import all_nodes

# What computes nothing: ends, names and copies of tensors, calls (whose bodies are looked at), reads of variables.
PLUMBING = frozenset((
    "Placeholder", "PlaceholderWithDefault", "Const", "Identity", "IdentityN", "NoOp", "StopGradient",
    "PreventGradient", "Snapshot", "VarHandleOp", "ReadVariableOp", "HashTableV2", "PartitionedCall",
    "StatefulPartitionedCall",
))  # fmt: skip
_CALLS = {"PartitionedCall": ("f",), "StatefulPartitionedCall": ("f",)}
_BRANCHES = {"If": ("then_branch", "else_branch"), "Case": ("branches",)}
_SHAPES = frozenset(("Shape", "ShapeN", "Size", "Rank"))
_RESOURCE = 20  # the type of a captured variable
_CHANCE = ("Random", "Stateful", "Rng", "TruncatedNormal", "ParameterizedTruncatedNormal", "Multinomial")
# Their outputs have sizes that follow from values, so that shapes behind them do, too.
_SIZED_BY_VALUES = frozenset((
    "Where", "Unique", "UniqueV2", "UniqueWithCounts", "UniqueWithCountsV2", "ListDiff", "DynamicPartition",
    "NonMaxSuppression", "NonMaxSuppressionV2", "NonMaxSuppressionV3", "NonMaxSuppressionV4",
    "NonMaxSuppressionV5", "Bincount", "RaggedRange", "RaggedTensorToTensor", "SparseFillEmptyRows",
))  # fmt: skip
_SHAPE_OPERANDS = {
    "Fill": (0,), "Reshape": (1,), "Tile": (1,), "BroadcastTo": (1,), "Range": (0, 1, 2), "LinSpace": (2,),
    "Slice": (1, 2), "StridedSlice": (1, 2, 3), "Pad": (1,), "PadV2": (1,), "MirrorPad": (1,),
    "OneHot": (1,), "TopKV2": (1,),
    "Empty": (0,), "ScatterNd": (2,), "UnsortedSegmentSum": (2,), "DenseBincount": (1,), "ResizeBilinear": (1,),
    "ResizeNearestNeighbor": (1,), "SplitV": (1,), "TensorListReserve": (0, 1), "Repeat": (1,),
}  # fmt: skip
# Where one operand makes the difference: an index may be out of range, a divisor 0, unless it is the same for all rows.
_TELLING_OPERAND = {
    "GatherV2": 1, "GatherNd": 1, "FloorDiv": 1, "FloorMod": 1, "Mod": 1, "TruncateDiv": 1, "TruncateMod": 1, "Div": 1,
    "RealDiv": 1, "Pow": 1, "LeftShift": 1, "RightShift": 1, "ScatterNd": 0, "TensorScatterUpdate": 1,
    "TensorScatterAdd": 1, "TensorScatterSub": 1, "TensorScatterMax": 1, "TensorScatterMin": 1, "SegmentSum": 1,
    "SegmentMean": 1, "SegmentMax": 1, "SegmentMin": 1, "SegmentProd": 1, "UnsortedSegmentSum": 1, "StridedSlice": 1,
    "UnsortedSegmentMax": 1, "UnsortedSegmentMin": 1, "UnsortedSegmentProd": 1, "Slice": 1, "ReverseSequence": 1,
}  # fmt: skip
_TYPE_ATTRIBUTES = ("T", "Tparams", "dtype", "element_dtype", "Tdata", "Tin", "out_type")
_CHECKS = ("Assert", "CheckNumerics")
# TensorFlow's numbers of types (types.proto), by how runtimes treat them.
_CLASSES = {
    1: "float", 2: "double", 3: "int", 4: "small", 5: "small", 6: "small", 7: "string", 8: "complex", 9: "int",
    10: "bool", 14: "half", 17: "small", 18: "complex", 19: "half", 20: "resource", 21: "variant", 22: "unsigned",
    23: "unsigned",
}  # fmt: skip

# The operand at which an operation has a pole, and by whose sign it has none.
_POLE_OPERAND = {"Rsqrt": 0, "Sqrt": 0, "Log": 0, "Reciprocal": 0, "Inv": 0, "RealDiv": 1, "Div": 1, "Xdivy": 1}
# Constants that are not finite, or as good as: masks of softmax.
INFINITE = "Const/infinite"
_LARGE = 1e37

Flags = tuple[bool, ...]


def operations_of(
    source: Any, signature: str = "serving_default", outputs: Sequence[str] | None = None
) -> frozenset[str]:
    """The keys of all operations between the rows and what a signature gives.

    The source is a `saved_model.pb`, its folder, or a `GraphDef`, of whose tensors `outputs` are wanted, or all.

    Raises:
        OSError: the file cannot be read.
        ValueError: it has no such signature.
    """
    if isinstance(source, str | Path):
        graph, outputs = _served(Path(source), signature)
    else:
        graph, outputs = source, outputs or [node.name for node in source.node]
    functions = {function.signature.name: function for function in graph.library.function}
    for shapes_move in (False, True):
        walk = _Walk(functions, shapes_move)
        walk.body({node.name: node for node in graph.node}, {}, outputs)
        if not walk.found_moving_shapes:
            break
    return frozenset(walk.keys)


def is_chance(key: str) -> bool:
    """Whether an operation draws random numbers that no argument determines."""
    return key.startswith(_CHANCE)


def operation_key(node: Any, fixed: Sequence[bool] = (), known: str = "") -> str:
    """The key of a `NodeDef`: its operation, the class of its type, and what is known of the operand that matters.

    `fixed` says of each input whether it is the same for all rows; `known` is "positive" where what it takes the root,
    the logarithm or the inverse of is positive for all rows, and "gelu" where it is a part of one.
    """
    is_stateless = node.op in ("StatelessIf", "StatelessWhile", "StatelessCase")
    name = node.op.removeprefix("Stateless") if is_stateless else node.op
    attributes = node.attr
    if name == "Cast":
        source, target = (_CLASSES.get(attributes[end].type, "other") for end in ("SrcT", "DstT"))
        return f"Cast/{source}>{target}"
    for attribute in _TYPE_ATTRIBUTES:
        # A list of types has no class.
        if attribute in attributes and attributes[attribute].type:
            name += f"/{_CLASSES.get(attributes[attribute].type, 'other')}"
            break
    operand = _TELLING_OPERAND.get(node.op)
    if operand is not None and operand < len(fixed) and fixed[operand]:
        return f"{name},constant"
    return f"{name},{known}" if known else name


def _served(path: Path, signature: str) -> tuple[Any, list[str]]:
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    path = path / "saved_model.pb" if path.is_dir() else path
    meta = SavedModel.FromString(path.read_bytes()).meta_graphs[0]
    if signature not in meta.signature_def:
        raise ValueError(f"{path} has no signature {signature!r}")
    _set_defaults(meta)
    return meta.graph_def, [tensor.name for tensor in meta.signature_def[signature].outputs.values()]


def _set_defaults(meta: Any) -> None:
    """Give nodes the types that saving has left out, as they are what the operation has by default: MaxPool's float."""
    defaults = {
        operation.name: {one.name: one.default_value.type for one in operation.attr if one.default_value.type}
        for operation in meta.meta_info_def.stripped_op_list.op
    }
    for node in all_nodes(meta.graph_def):
        for name, default in defaults.get(node.op, {}).items():
            if name not in node.attr:
                node.attr[name].type = default


class _Walk:
    """One way through a graph; a flag says whether a tensor depends on the rows."""

    def __init__(self, functions: Mapping[str, Any], shapes_move: bool) -> None:
        self.keys: set[str] = set()
        self.found_moving_shapes = False
        self._functions = functions
        self._shapes_move = shapes_move
        self._known: dict[tuple[str, Flags, bool], Flags] = {}

    def body(
        self, nodes: Mapping[str, Any], arguments: Mapping[str, bool], wanted: Iterable[str], may_not_run: bool = False
    ) -> Flags:
        """Walk nodes and say of the wanted tensors whether they depend on the rows."""
        wanted = list(wanted)
        flags: dict[str, Flags | bool] = dict(arguments)
        for node in _inputs_first(nodes, wanted):
            inputs = tuple(_flag(flags, name) for name in node.input if not name.startswith("^"))
            flags[node.name] = self._node(node, inputs, may_not_run, _known(nodes, node, wanted))
        return tuple(_flag(flags, name) for name in wanted)

    def _node(self, node: Any, inputs: Flags, may_not_run: bool, known: str) -> Flags | bool:
        op = node.op.removeprefix("Stateless")
        if op in _CALLS:
            return self._function(node.attr["f"].func.name, inputs, may_not_run)
        if op in _BRANCHES:
            return self._branches(node, inputs, may_not_run)
        if op == "While":
            return self._loop(node, inputs, may_not_run)
        if op in _SHAPES and not self._shapes_move:
            return False
        if op == "Const" and (values := constant(node)) is not None and not np.abs(values).max() < _LARGE:
            self.keys.add(INFINITE)
        is_input = op.startswith("Placeholder") and node.attr["dtype"].type != _RESOURCE
        depends = any(inputs) or is_input or node.op.startswith(_CHANCE)
        for attribute in node.attr.values():
            for name in {attribute.func.name, *(function.name for function in attribute.list.func)} - {""}:
                self._function(name, None, may_not_run=True)
        # In a branch that only some rows take, `Assert(False)` fails for these alone.
        if (depends or (may_not_run and op in _CHECKS)) and op not in PLUMBING:
            self.keys.add(operation_key(node, [not flag for flag in inputs], known))
            operands = _SHAPE_OPERANDS.get(op, ())
            self.found_moving_shapes |= op in _SIZED_BY_VALUES or any(inputs[n] for n in operands if n < len(inputs))
        return depends

    def _function(self, name: str, inputs: Flags | None, may_not_run: bool) -> Flags:
        function = self._functions[name]
        names = [argument.name for argument in function.signature.input_arg]
        inputs = (True,) * len(names) if inputs is None else inputs
        key = (name, inputs, may_not_run)
        if key not in self._known:
            results = [function.ret[argument.name] for argument in function.signature.output_arg]
            nodes = {node.name: node for node in function.node_def}
            wanted = [*results, *function.control_ret.values()]
            flags = self.body(nodes, dict(zip(names, inputs, strict=True)), wanted, may_not_run)
            self._known[key] = flags[: len(results)]
        return self._known[key]

    def _branches(self, node: Any, inputs: Flags, may_not_run: bool) -> Flags:
        by_rows, operands = inputs[0], inputs[1:]
        if by_rows:
            self.keys.add(operation_key(node))
        names = [
            function.name
            for attribute in _BRANCHES[node.op.removeprefix("Stateless")]
            for function in (node.attr[attribute].func, *node.attr[attribute].list.func)
            if function.name
        ]
        results = [self._function(name, operands, may_not_run or by_rows) for name in names]
        return tuple(by_rows or any(flags) for flags in zip(*results, strict=True))

    def _loop(self, node: Any, inputs: Flags, may_not_run: bool) -> Flags:
        condition, body = node.attr["cond"].func.name, node.attr["body"].func.name
        while True:
            by_rows = self._function(condition, inputs, may_not_run)[0]
            if by_rows:
                self.keys.add(operation_key(node))
            outputs = self._function(body, inputs, may_not_run or by_rows)
            merged = tuple(before or after or by_rows for before, after in zip(inputs, outputs, strict=True))
            if merged == inputs:
                return merged
            inputs = merged


def _inputs_first(nodes: Mapping[str, Any], wanted: Iterable[str]) -> list[Any]:
    """What the wanted tensors need, control inputs included."""
    ordered, seen = [], set()
    stack = [(_node_name(name), False) for name in wanted]
    while stack:
        name, is_done = stack.pop()
        if is_done:
            ordered.append(nodes[name])
        elif name not in seen and name in nodes:
            seen.add(name)
            stack.append((name, True))
            stack.extend((_node_name(source), False) for source in nodes[name].input)
    return ordered


def _known(nodes: Mapping[str, Any], node: Any, wanted: Sequence[str]) -> str:
    """What is known of an operation beside its type, as it stands in its key."""
    operand = _POLE_OPERAND.get(node.op)
    if operand is not None and sign_of(nodes, node.input[operand]) == POSITIVE:
        return "positive"
    return "gelu" if node.op == "Erfc" and is_of_gelu(nodes, node, wanted) else ""


def _node_name(tensor: str) -> str:
    return tensor.removeprefix("^").partition(":")[0]


def _flag(flags: Mapping[str, Flags | bool], tensor: str) -> bool:
    """Whether a tensor depends on the rows; one that is not known, as in an old loop, may."""
    flag = flags.get(_node_name(tensor), True)
    if isinstance(flag, bool):
        return flag
    number = tensor.rpartition(":")[2]
    return flag[int(number) if number.isdigit() else 0] if flag else False
