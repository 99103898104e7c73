"""Rewrites a frozen graph so that it computes in float64: the truth that rounding in float32 is measured by.

GraphDef --each node: a kernel in float64?--> its types widened, or left --Cast where two ends differ--> GraphDef

Inputs and constants stay as they are, and are cast where they are used. What no kernel computes in float64 is computed
in float32 between two casts, and named. Functions (loops, branches) take and give float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tasks.models.formats.graph_def import OUTPUT_SHAPES

# TensorFlow's numbers of types (types.proto): float32, float16, bfloat16 and complex64.
_WIDER = {1: 2, 19: 2, 14: 2, 8: 18}
_FLOAT, _DOUBLE = 1, 2
# What is given, and what would be another thing: other bits, other random numbers.
_GIVEN = frozenset(("Const", "Placeholder", "PlaceholderWithDefault"))
_OTHER = frozenset(("Bitcast", "DecodeRaw", "DecodePaddedRaw", "ParseTensor", "SerializeTensor"))
_CHANCE = ("Random", "Stateless", "Stateful", "Multinomial", "TruncatedNormal", "ParameterizedTruncatedNormal")
_STATELESS_CALLS = frozenset(("StatelessIf", "StatelessWhile", "StatelessCase", "StatefulPartitionedCall"))
_NORM = frozenset(("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"))


def widen(graph_def: Any) -> list[str]:
    """Change a graph so that it computes in float64; its placeholders, and what they are fed, stay as they are.

    Returns:
        The operations that are left in lower precision, sorted.

    Raises:
        ValueError: an operation is not known.
    """
    functions = {function.signature.name: function.signature for function in graph_def.library.function}
    left: set[str] = set()
    for signature in functions.values():
        for argument in (*signature.input_arg, *signature.output_arg):
            argument.type = _WIDER.get(argument.type, argument.type)
    _Body(graph_def.node, functions, left, {}, is_function=False).widen()
    for function in graph_def.library.function:
        arguments = {argument.name: argument.type for argument in function.signature.input_arg}
        body = _Body(function.node_def, functions, left, arguments, is_function=True)
        body.widen()
        for argument in function.signature.output_arg:
            function.ret[argument.name] = body.cast(function.ret[argument.name], argument.type)
    return sorted(left)


class _Body:
    """The nodes of a graph or a function; tensors are "node:1" in one, and "node:output:1" in the other."""

    def __init__(
        self,
        nodes: Any,
        functions: Mapping[str, Any],
        left: set[str],
        arguments: Mapping[str, int],
        *,
        is_function: bool,
    ) -> None:
        self._nodes, self._functions, self._left, self._is_function = nodes, functions, left, is_function
        self._types = dict(arguments)  # by tensor
        self._casts: set[str] = set()

    def widen(self) -> None:
        nodes = list(self._nodes)
        used = {source for node in nodes for source in node.input}
        for node in nodes:
            node.attr.pop(OUTPUT_SHAPES, None)
            node.attr.pop("_class", None)
            if node.op in _NORM and self._is_plain_norm(node, used):
                self._split_norm(node)
            else:
                self._widen_types(node)
        for node in list(self._nodes):
            self._types.update(self._outputs(node))
        for node in list(self._nodes):
            wanted = _types(self._definition(node).input_arg, node)
            for place, type_ in enumerate(type_ for _, types in wanted for type_ in types):
                node.input[place] = self.cast(node.input[place], type_)

    def cast(self, tensor: str, type_: int) -> str:
        """The tensor in this type."""
        tensor = tensor.removesuffix(":0") if not self._is_function else tensor
        have = self._types[tensor]
        if have == type_:
            return tensor
        name = f"{tensor.replace(':', '_')}/widened_{type_}"
        if name not in self._casts:
            self._casts.add(name)
            self._add("Cast", name, [tensor], SrcT=have, DstT=type_)
        return f"{name}:y:0" if self._is_function else name

    def _widen_types(self, node: Any) -> None:
        definition = self._definition(node)
        if node.op in _GIVEN:
            return
        kept = {attribute.name: node.attr[attribute.name].SerializeToString() for attribute in definition.attr}
        is_moved = False
        for attribute in definition.attr:
            value = node.attr[attribute.name]
            if attribute.type == "type" and value.type in _WIDER:
                value.type, is_moved = _WIDER[value.type], True
            elif attribute.type == "list(type)":
                wider = [_WIDER.get(one, one) for one in value.list.type]
                is_moved |= wider != list(value.list.type)
                value.list.type[:] = wider
        is_fixed = any(argument.type in _WIDER for argument in (*definition.input_arg, *definition.output_arg))
        is_other = node.op in _OTHER or (node.op.startswith(_CHANCE) and node.op not in _STATELESS_CALLS)
        if is_moved and (is_other or not _has_kernel(node, definition)):
            for name, value in kept.items():
                node.attr[name].ParseFromString(value)
            is_fixed = True
        if is_fixed and node.op not in self._functions:
            self._left.add(node.op)

    def _definition(self, node: Any) -> Any:
        from tensorflow.python.framework import op_def_registry

        definition = self._functions.get(node.op) or op_def_registry.get(node.op)
        if definition is None:
            raise ValueError(f"its operation {node.op} is not known")
        return definition

    def _outputs(self, node: Any) -> Iterator[tuple[str, int]]:
        number = 0
        for argument, types in _types(self._definition(node).output_arg, node):
            for place, type_ in enumerate(types):
                if self._is_function:
                    yield f"{node.name}:{argument.name}:{place}", type_
                else:
                    yield (f"{node.name}:{number}" if number else node.name), type_
                number += 1

    def _is_plain_norm(self, node: Any, used: set[str]) -> bool:
        others = (f"{node.name}:{number}" for number in range(1, 6))
        return (
            not node.attr["is_training"].b
            and node.attr["data_format"].s in (b"NHWC", b"NDHWC", b"")
            and not any(one in used for one in others)
            and not any(source.startswith(f"{node.name}:") and ":y:" not in source for source in used)
        )

    def _split_norm(self, node: Any) -> None:
        """Nothing computes it in float64: (x - mean) / sqrt(variance + epsilon) * scale + offset does."""
        x, scale, offset, mean, variance, *control = node.input
        name, epsilon = node.name, float(node.attr["epsilon"].f)
        constant = self._nodes.add(name=f"{name}/epsilon", op="Const")
        constant.attr["dtype"].type = _DOUBLE
        constant.attr["value"].tensor.dtype = _DOUBLE
        constant.attr["value"].tensor.tensor_shape.SetInParent()
        constant.attr["value"].tensor.double_val.append(epsilon)

        def made(op: str, part: str, *sources: str) -> str:
            output = "y" if op == "Rsqrt" else "z"
            self._add(op, f"{name}/{part}", sources, T=_DOUBLE)
            return f"{name}/{part}:{output}:0" if self._is_function else f"{name}/{part}"

        sized = f"{name}/epsilon:output:0" if self._is_function else f"{name}/epsilon"
        factor = made("Mul", "factor", made("Rsqrt", "root", made("AddV2", "sum", variance, sized)), scale)
        product = made("Mul", "product", made("Sub", "centred", x, mean), factor)
        node.Clear()
        node.name, node.op = name, "AddV2"
        node.input.extend([product, offset, *control])
        node.attr["T"].type = _DOUBLE
        if self._is_function:
            self._renamed(f"{name}:y:0", f"{name}:z:0")

    def _renamed(self, old: str, new: str) -> None:
        for node in self._nodes:
            for place, source in enumerate(node.input):
                if source == old:
                    node.input[place] = new

    def _add(self, op: str, name: str, sources: Any, **types: int) -> None:
        node = self._nodes.add(name=name, op=op, input=sources)
        for attribute, type_ in types.items():
            node.attr[attribute].type = type_
        self._types.update(self._outputs(node))


def _types(arguments: Any, node: Any) -> list[tuple[Any, list[int]]]:
    """The types of each argument of an operation, which may stand for several tensors."""
    return [(argument, _types_of(argument, node)) for argument in arguments]


def _types_of(argument: Any, node: Any) -> list[int]:
    if argument.type_list_attr:
        return list(node.attr[argument.type_list_attr].list.type)
    type_ = argument.type or node.attr[argument.type_attr].type
    return [type_] * (node.attr[argument.number_attr].i if argument.number_attr else 1)


def _has_kernel(node: Any, definition: Any) -> bool:
    """Whether a processor can compute the operation with these types."""
    from tensorflow.python.framework import kernels

    for attribute in definition.attr:
        allowed = attribute.allowed_values.list.type
        value = node.attr[attribute.name]
        types = value.list.type if attribute.type == "list(type)" else [value.type]
        if attribute.type in ("type", "list(type)") and allowed and not set(types) <= set(allowed):
            return False
    found = kernels.get_registered_kernels_for_op(definition.name).kernel
    return not found or any(_fits(kernel, node) for kernel in found if kernel.device_type in ("CPU", "DEFAULT"))


def _fits(kernel: Any, node: Any) -> bool:
    for constraint in kernel.constraint:
        value = node.attr[constraint.name]
        types = list(value.list.type) or [value.type]
        if not set(types) <= set(constraint.allowed_values.list.type):
            return False
    return True
