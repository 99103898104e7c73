"""Lists the operations of a model's file that touch files, the network or Python, without loading the model.

SavedModel      what runs for its signature, when its tables are filled, and when its variables are restored
.pb, .meta      what runs for the outputs, and when the checkpoint is restored
Keras           layers with Python code, or that read a file that is not in the model's own
.tflite         custom operations, whose code is in no file of the model
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from tasks.models.formats.constants import check_no_constants
from tasks.models.formats.file_operations import Graph, touched_by
from tasks.models.formats.frozen import read_graph
from tasks.models.formats.keras import layer_operations, read_config
from tasks.models.formats.saved_model import keeps_optimizer, read_meta_graph
from tasks.models.formats.sessions import read_meta
from tasks.models.formats.tensor_names import tensor_names
from tasks.models.formats.tflite import custom_operations
from tasks.models.program import check_order
from tasks.protocol.records import FileOperation
from worker_config.manifest import ModelEntry
from worker_config.model_paths import ending

# What the loader runs of a SavedModel of TensorFlow 1, and of one's tables.
_INIT_OP = "__saved_model_init_op"
_MAIN_OPS = ("saved_model_main_op", "legacy_init_op")
_INITIALISERS = ("_create_resource", "_initialize")


def inspect_file(path: Path, entry: ModelEntry) -> list[FileOperation]:
    """The operations of a model's file or folder.

    Raises:
        ValueError: it is none of its kind, or has no such signature or tensors.
    """
    if path.is_dir():
        return _of_saved_model(path, entry)
    if ending(path) not in (".meta", ".pb"):
        check_no_constants(entry.constants)
    if path.suffix == ".tflite":
        names = custom_operations(path)
        return [FileOperation(name, path.name, touched_by(name.removeprefix("Flex")) or "unknown") for name in names]
    if ending(path) == ".meta":
        return _of_checkpoint(path, entry)
    if path.suffix == ".pb":
        graph_def = read_graph(path, entry)
        return Graph(graph_def).touching(tensor_names(graph_def, entry.inputs, entry.outputs)[1])
    return list(layer_operations(read_config(path)))


def _of_checkpoint(path: Path, entry: ModelEntry) -> list[FileOperation]:
    meta = read_meta(path, entry)
    outputs = tensor_names(meta.graph_def, entry.inputs, entry.outputs)[1]
    return _graph(meta).touching([*outputs, *_restoring(meta)])


def _of_saved_model(path: Path, entry: ModelEntry) -> list[FileOperation]:
    meta = read_meta_graph(path, entry.signature)
    if keeps_optimizer(meta):
        check_no_constants(entry.constants)
    if entry.inputs:  # before the model is loaded, which may take long
        given = meta.signature_def[entry.signature].inputs
        fed = [name for name in given if not {name, given[name].name} & entry.constants.keys()]
        check_order(entry.inputs, sorted(fed))
    outputs = [tensor.name for tensor in meta.signature_def[entry.signature].outputs.values() if tensor.name]
    functions = list(_loaded_functions(meta.object_graph_def, entry.signature))
    if meta.HasField("object_graph_def") and not keeps_optimizer(meta):
        return _graph(meta).touching(outputs, functions)
    # Looked for first: a protobuf map makes the entry that it is asked for.
    initial = []
    if _INIT_OP in meta.signature_def:
        initial += [tensor.name for tensor in meta.signature_def[_INIT_OP].outputs.values()]
    initial += [
        name for key in _MAIN_OPS if key in meta.collection_def for name in meta.collection_def[key].node_list.value
    ]
    return _graph(meta).touching([*outputs, *initial, *_restoring(meta)], functions)


def _restoring(meta: Any) -> list[str]:
    saver = meta.saver_def.restore_op_name
    return [saver] if saver else []


def _graph(meta: Any) -> Graph:
    """The graph, with the tensors that name files of the model: assets, and its checkpoint."""
    is_inside = [_is_inside(one.filename) for one in meta.asset_file_def]
    assets = [one.tensor_info.name for one, inside in zip(meta.asset_file_def, is_inside, strict=True) if inside]
    objects = meta.object_graph_def
    nodes = [one.WhichOneof("kind") == "asset" and is_inside[one.asset.asset_file_def_index] for one in objects.nodes]
    bound = {
        name: [nodes[number] for number in function.bound_inputs]
        for name, function in objects.concrete_functions.items()
    }
    return Graph(meta.graph_def, [*assets, *filter(None, [meta.saver_def.filename_tensor_name])], bound)


def _is_inside(filename: str) -> bool:
    """Whether the name of an asset stays in the model's folder of them."""
    path = PurePosixPath(filename)
    return not path.is_absolute() and ".." not in path.parts and "://" not in filename


def _loaded_functions(objects: Any, signature: str) -> Iterator[str]:
    """The functions that loading an object graph runs, and that of the signature."""
    for one in objects.nodes:
        children = {child.local_name: objects.nodes[child.node_id] for child in one.children}
        for name in _INITIALISERS:
            if name in children:
                yield from _names_of(children[name])
        for saveable in one.saveable_objects.values():
            yield from _names_of(objects.nodes[saveable.restore_function])
        if one.WhichOneof("kind") == "user_object" and one.user_object.identifier == "signature_map":
            yield from _names_of(children[signature]) if signature in children else ()


def _names_of(one: Any) -> list[str]:
    kind = one.WhichOneof("kind")
    if kind == "bare_concrete_function":
        return [one.bare_concrete_function.concrete_function_name]
    return list(one.function.concrete_functions) if kind == "function" else []
