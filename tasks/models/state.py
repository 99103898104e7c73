"""What a model keeps between calls: the variables that its graph writes to, and how they get their saved values back.

    concrete function --its graph, and the functions that it calls--> written: which variables, which of them are seeds
    variables --> VariableState.restore: at the beginning of each chunk

Lookup tables are no state: a graph that serves fills them once. What nobody knows to read only counts as written to.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import numpy as np

_READ = {
    "DisableCopyOnRead",
    "ReadVariableOp",
    "ResourceGather",
    "ResourceGatherNd",
    "VarIsInitializedOp",
    "VariableShape",
}
_PASSED_ON = {"Enter", "Exit", "Identity", "Merge", "NextIteration", "Switch"}
# Their first input says which function is called, and is not handed to it.
_BRANCHES = {"Case", "If", "StatelessCase", "StatelessIf"}
# What these operations read and write is the state of a random generator; Keras names its own.
_GENERATORS = ("Rng", "Stateful")
_KERAS_SEED = "seed_generator_state"


class State(Protocol):
    """What a call keeps."""

    def restore(self, first_row: int | None = None, *, seeds_alone: bool = False) -> None:
        """Begin anew from what the model's file says; given a chunk's first row, with seeds that are its own."""


class VariableState:
    """The state of a TensorFlow graph, as it is when this is made.

    Args:
        variables: those that the graph writes to.
        seeds: those of them that are a random generator's.
    """

    def __init__(self, variables: Sequence[Any], seeds: Sequence[Any] = ()) -> None:
        import tensorflow as tf

        # TensorFlow writes in place only to what nobody else holds.
        self._kept = [(variable, tf.constant(variable.numpy())) for variable in variables]
        self._seeds = {id(variable) for variable in seeds}

    def restore(self, first_row: int | None = None, *, seeds_alone: bool = False) -> None:
        """As `State` has it."""
        for number, (variable, saved) in enumerate(self._kept):
            is_seed = id(variable) in self._seeds
            if is_seed and first_row is not None:
                variable.assign(_seed(saved.numpy(), number, first_row))
            elif is_seed or not seeds_alone:
                variable.assign(saved)


class _Reopened:
    """State that only a model which is opened again has as it is in the file."""

    def __init__(self, reopen: Callable[[], Any], call: Callable[..., Any]) -> None:
        self.call, self.is_fresh = call, True
        self._reopen = reopen

    def restore(self, first_row: int | None = None, *, seeds_alone: bool = False) -> None:
        """Open it again, if it was called since."""
        if not (seeds_alone or self.is_fresh):
            self.call, self.is_fresh = self._reopen(), True


def opened_again(reopen: Callable[[], Any], call: Callable[..., Any]) -> Callable[..., Any]:
    """A call of a model whose state nothing else gives back than opening it again; `call` is of its first opening."""
    reopened = _Reopened(reopen, call)

    def current(arrays: Sequence[np.ndarray[Any, Any]]) -> Any:
        reopened.is_fresh = False
        return reopened.call(arrays)

    current.state = reopened  # type: ignore[attr-defined]
    return current


def state_of(call: Callable[..., Any]) -> State | None:
    """What a call keeps between calls; None where that is nothing."""
    state: State | None = getattr(call, "state", None)
    return state


def written(function: Any) -> tuple[list[int], list[int]]:
    """The variables that a concrete function writes to, and which of them are seeds, by place in its `variables`."""
    variables = list(function.variables)
    names = {id(external): inner.name for external, inner in function.graph.captures}
    handles = [id(getattr(one, "handle", None)) for one in variables]
    by_name = {names[handle]: number for number, handle in enumerate(handles) if handle in names}
    graph_def = function.graph.as_graph_def()
    scopes = {"": graph_def.node} | {one.signature.name: one.node_def for one in graph_def.library.function}
    arguments = {
        one.signature.name: [arg.name for arg in one.signature.input_arg] for one in graph_def.library.function
    }
    consumers = {scope: _consumers(nodes) for scope, nodes in scopes.items()} if by_name else {}
    waiting = [("", name.partition(":")[0], number) for name, number in by_name.items()]
    seen, state, seeds = set(waiting), set(), set()
    while waiting:
        scope, tensor, number = waiting.pop()
        for node, place in consumers[scope].get(tensor, ()):
            called = [node.op] if node.op in scopes else list(_called(node))
            if node.op in _PASSED_ON:
                found = [(scope, node.name, number)]
            elif called:
                place -= node.op in _BRANCHES
                found = [(name, arguments[name][place], number) for name in called if place < len(arguments[name])]
            else:
                if node.op not in _READ:
                    state.add(number)
                    if node.op.startswith(_GENERATORS) or _KERAS_SEED in variables[number].name:
                        seeds.add(number)
                continue
            waiting += [one for one in found if one not in seen]
            seen.update(found)
    return sorted(state), sorted(seeds)


def variable_state(variables: Sequence[Any], state: Iterable[int], seeds: Iterable[int]) -> VariableState | None:
    """The state that `written` found; None where there is none."""
    kept = [variables[number] for number in state]
    return VariableState(kept, [variables[number] for number in seeds]) if kept else None


def is_half(function: Any) -> bool:
    """Whether anything in a concrete function, or in those that it calls, is computed in half precision."""
    import tensorflow as tf

    half = {tf.bfloat16.as_datatype_enum, tf.float16.as_datatype_enum}
    return any(value.type in half for node in all_nodes(function.graph.as_graph_def()) for value in node.attr.values())


def all_nodes(graph_def: Any) -> list[Any]:
    """The nodes of a graph and of its functions."""
    return [*graph_def.node, *(node for function in graph_def.library.function for node in function.node_def)]


def _consumers(nodes: Iterable[Any]) -> dict[str, list[tuple[Any, int]]]:
    """Nodes by the name of what they take, each with the place at which it does."""
    found = defaultdict(list)
    for node in nodes:
        for place, source in enumerate(node.input):
            if not source.startswith("^"):
                found[source.partition(":")[0]].append((node, place))
    return found


def _called(node: Any) -> Iterable[str]:
    for value in node.attr.values():
        if value.HasField("func"):
            yield value.func.name
        yield from (function.name for function in value.list.func)


def _seed(saved: np.ndarray[Any, Any], number: int, first_row: int) -> np.ndarray[Any, Any]:
    """Other values for a generator's state; the same for the same model and row, whatever job or machine."""
    source = hashlib.shake_256(f"{number} {first_row} ".encode() + saved.tobytes())
    values = np.frombuffer(source.digest(4 * saved.size), "<u4") >> 1  # which fits all dtypes that generators have
    return values.reshape(saved.shape).astype(saved.dtype)
