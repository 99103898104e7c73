"""Finds the operations of a graph that touch more than its rows: files, the network, Python. Nothing is run.

    graph, outputs, functions --needs, calls--> nodes that would run --> FileOperation

A file of the model itself, an asset, may be read: it counts for the model's version, and travels with it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tasks.models.formats.graph_def import called, running
from tasks.protocol.records import FileOperation, Touched
from worker_config.manifest import ModelEntry

# All without the number of their version, and without "Experimental" before them.
_FILES = frozenset((
    "CSVDataset", "CacheDataset", "CreateSummaryDbWriter", "CreateSummaryFileWriter", "DatasetFromGraph",
    "DatasetToTFRecord", "DebugIdentity", "DebugNanCount", "DebugNumericSummary", "FileSystemSetConfiguration",
    "FixedLengthRecordDataset", "FixedLengthRecordReader", "GenerateVocabRemapping", "InitializeTableFromTextFile",
    "LMDBDataset", "LMDBReader", "ListSnapshotChunksDataset", "LoadAndRemapMatrix", "LoadDataset", "MatchingFiles",
    "MatchingFilesDataset", "MergeV2Checkpoints", "ReadFile", "Restore", "RestoreSlice", "Save", "SaveDataset",
    "SaveSlices", "SnapshotChunkDataset", "SnapshotDataset", "SnapshotDatasetReader", "SnapshotNestedDatasetReader",
    "SqlDataset", "TFRecordDataset", "TFRecordReader", "TextLineDataset", "TextLineReader", "WholeFileReader",
    "WriteFile",
))  # fmt: skip
_NETWORK = frozenset((
    "CollectiveInitializeCommunicator", "DataServiceDataset", "DistributedSave", "Recv", "RegisterDataset",
    "RemoteCall", "RpcCall", "RpcClient", "RpcServer", "RpcServerRegister", "RpcServerStart", "Send",
))  # fmt: skip
_PYTHON = frozenset(("EagerPyFunc", "PyFunc", "PyFuncStateless"))
_VERSION = re.compile(r"^Experimental|(?<=[a-z])V\d$")
# Those that read one file: which of their inputs names it.
_READS = {"ReadFile": 0, "InitializeTableFromTextFile": 1, "TextLineDataset": 0, "TFRecordDataset": 0, "Restore": 0}
# Attributes that may name a file, and the beginnings of those that do not.
_NAMES_A_FILE = {
    "DecodeProto": ("descriptor_source", ("local://", "bytes://")),
    "EncodeProto": ("descriptor_source", ("local://", "bytes://")),
    "Print": ("output_stream", ("stdout", "stderr", "log(")),
}
# Layers of Keras that are Python code in the file.
LAMBDAS = ("Lambda", "__lambda__")
# Calls whose functions get the inputs from this place on, one by one; of others nobody follows what they get.
_CALLS = {"PartitionedCall": 0, "StatefulPartitionedCall": 0, "While": 0, "StatelessWhile": 0} | dict.fromkeys(
    ("If", "StatelessIf", "Case", "StatelessCase"), 1
)
_MOST_STEPS = 100  # from a file's name back to where it comes from

_Origin = tuple[str, str] | bool


def touched_by(operation: str) -> Touched | None:
    """What an operation of this name touches; None where that is nothing, or an attribute tells."""
    name = _VERSION.sub("", operation)
    if name in _FILES:
        return "files"
    if name in _NETWORK:
        return "network"
    return "Python" if name in _PYTHON else None


def check_operations(found: list[FileOperation], entry: ModelEntry) -> None:
    """Refuse operations that the manifest does not allow; Lambda layers have a key of their own.

    Raises:
        ValueError: there is one.
    """
    if not entry.lambdas and any(one.operation in LAMBDAS for one in found):
        raise ValueError(
            "it has a Lambda layer, which is Python code that runs when the file is read; if you trust the file, say "
            "lambdas = true in the manifest"
        )
    refused = [one for one in found if one.touches != "unknown" and one.operation not in LAMBDAS]
    if refused and not entry.allow_file_operations:
        more = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
        raise ValueError(
            f"its operation {refused[0]}{more}; export the model without it, or, if you trust the file, say "
            "allow_file_operations = true in the manifest"
        )


@dataclass(frozen=True)
class Graph:
    """A graph as its file has it.

    Attributes:
        graph_def: its nodes and functions.
        assets: tensors that hold the name of a file of the model.
        bound: of functions: what their last inputs are bound to when the model is loaded, whether an asset each.
    """

    graph_def: Any
    assets: Collection[str] = ()
    bound: Mapping[str, Sequence[bool]] = field(default_factory=dict)

    def touching(self, wanted: Collection[str], functions: Iterable[str] = ()) -> list[FileOperation]:
        """What runs for the wanted tensors or nodes, or in these functions, and touches more than its rows.

        Raises:
            ValueError: a node has an input that is not there.
        """
        scopes = running(self.graph_def, wanted, functions)
        walk = _Origins(self, {one.signature.name: one for one in self.graph_def.library.function})
        found = [
            FileOperation(node.op, f"{scope}/{node.name}".strip("/"), touched)
            for scope, nodes in scopes.items()
            for node in nodes
            if (touched := _touched(node)) and not walk.reads_an_asset(scope, node)
        ]
        return sorted(set(found), key=lambda one: (one.operation, one.node))


class _Origins:
    """Where the name of a file comes from, through functions and calls."""

    def __init__(self, graph: Graph, library: Mapping[str, Any]) -> None:
        self._assets = {name.partition(":")[0] for name in graph.assets}
        self._bound = graph.bound
        self._arguments = {name: [one.name for one in f.signature.input_arg] for name, f in library.items()}
        self._nodes = {"": {node.name: node for node in graph.graph_def.node}} | {
            name: {node.name: node for node in function.node_def} for name, function in library.items()
        }
        self._calls: dict[str, list[tuple[str, Any]]] = defaultdict(list)
        for scope, nodes in self._nodes.items():
            for node in nodes.values():
                for name in called([node], library):
                    self._calls[name].append((scope, node))

    def reads_an_asset(self, scope: str, node: Any) -> bool:
        """Whether all that an operation touches is a file of the model itself, wherever it is called from."""
        place = _READS.get(_VERSION.sub("", node.op))
        if place is None or place >= len(node.input):
            return False
        waiting: list[_Origin] = [(scope, node.input[place])]
        for _ in range(_MOST_STEPS):
            if not waiting:
                return True
            origin = waiting.pop()
            if isinstance(origin, tuple):
                waiting += self._origins(*origin)
            elif not origin:
                return False
        return False

    def _origins(self, scope: str, tensor: str) -> Iterator[_Origin]:
        name = tensor.partition(":")[0]
        if scope and name in self._arguments[scope]:
            yield from self._given(scope, self._arguments[scope].index(name))
            return
        node = self._nodes[scope].get(name)
        if node is not None and node.op == "Identity":
            yield scope, node.input[0]
        elif node is not None and node.op == "ReadVariableOp":  # in which the name of an asset stands meanwhile
            writes = [one for one in self._nodes[scope].values() if one.op == "AssignVariableOp"]
            values = [one.input[1] for one in writes if one.input[0] == node.input[0]]
            yield from ((scope, value) for value in values)
            yield bool(values)
        else:
            yield not scope and name in self._assets

    def _given(self, function: str, place: int) -> Iterator[_Origin]:
        """What a function gets as one of its inputs, in all its calls."""
        bound = self._bound.get(function)
        from_end = len(self._arguments[function]) - place
        if bound is not None:
            yield from_end <= len(bound) and bound[-from_end]
        for scope, node in self._calls[function]:
            first = 0 if node.op == function else _CALLS.get(node.op)
            if first is None or first + place >= len(node.input):
                yield False
            else:
                yield scope, node.input[first + place]
        if bound is None and not self._calls[function]:
            yield False


def _touched(node: Any) -> Touched | None:
    if touched := touched_by(node.op):
        return touched
    attribute, harmless = _NAMES_A_FILE.get(_VERSION.sub("", node.op), ("", ()))
    if attribute in node.attr:
        value = node.attr[attribute].s.decode(errors="replace")
        return None if not value or value.startswith(harmless) else "files"
    return None
