"""Which builtin operators a TFLite file computes some of its outputs with."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any


def operators(path: Path, outputs: Collection[int]) -> list[str]:
    """The operators behind outputs of these numbers; an activation that is fused with one stands behind it."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(path.read_bytes(), 0))
    names = {number: name for name, number in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    activations = {number: name for name, number in vars(schema.ActivationFunctionType).items() if name[0] != "_"}

    def name_of(operator: Any) -> str:
        code = model.operatorCodes[operator.opcodeIndex]
        activation = getattr(operator.builtinOptions, "fusedActivationFunction", 0)
        name = names[max(code.builtinCode, code.deprecatedBuiltinCode)]
        return f"{name}+{activations[activation]}" if activation else name

    main, *bodies = model.subgraphs
    wanted = {main.outputs[number] for number in outputs}
    found = set()
    for operator in reversed(main.operators or []):
        if wanted.isdisjoint(operator.outputs):
            continue
        wanted.update(operator.inputs)
        found.add(name_of(operator))
        if names[model.operatorCodes[operator.opcodeIndex].builtinCode] in ("WHILE", "IF"):
            found.update(name_of(inner) for body in bodies for inner in body.operators or [])
    return sorted(found)
