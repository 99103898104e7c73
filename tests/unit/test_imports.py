"""What the producer may know of the worker's side: what travels, how, and what tells versions."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import producer

KNOWN = {
    "tasks.datasets.arrow",
    "tasks.datasets.columns",
    "tasks.datasets.formats.csv",
    "tasks.datasets.formats.hdf5",
    "tasks.datasets.formats.ipc",
    "tasks.datasets.formats.jsonl",
    "tasks.datasets.formats.npz",
    "tasks.datasets.formats.parquet",
    "tasks.datasets.formats.tfrecord",
    "tasks.datasets.formats.webdataset",
    "tasks.datasets.formats.zarr",
    "tasks.datasets.gather",
    "tasks.datasets.input_limit",
    "tasks.datasets.kept",
    "tasks.datasets.marked",
    "tasks.datasets.objects",
    "tasks.datasets.open_file",
    "tasks.datasets.read_errors",
    "tasks.datasets.rebatcher",
    "tasks.datasets.rows",
    "tasks.datasets.split_reader",
    "tasks.models.model_version",
    "tasks.outputs.arrow",
    "tasks.outputs.failed_mask",
    "tasks.outputs.formats",
    "tasks.outputs.npy",
    "tasks.outputs.output_file",
    "tasks.outputs.part_files",
    "tasks.outputs.parts",
    "tasks.outputs.row_spec",
    "tasks.outputs.temp_paths",
    "tasks.outputs.widen",
    "tasks.outputs.writer",
    "tasks.outputs.zarr",
    "tasks.protocol.codec",
    "tasks.protocol.dtypes",
    "tasks.protocol.keys",
    "tasks.protocol.made_inputs",
    "tasks.protocol.messages",
    "tasks.protocol.plan",
    "tasks.protocol.preparing",
    "tasks.protocol.records",
    "tasks.protocol.requests",
    "tasks.protocol.rights",
    "tasks.protocol.seal",
    "tasks.protocol.signature",
    "tasks.protocol.split_ref",
    "tasks.protocol.unfed_rows",
    "tasks.snapshots.built_set",
    "tasks.snapshots.cache",
    "tasks.snapshots.fetch_models",
    "tasks.snapshots.installed",
    "tasks.storage.background",
    "tasks.storage.object_list",
    "tasks.storage.object_paths",
    "tasks.storage.objects",
    "tasks.storage.told",
    "tasks.transport.async_connection",
    "tasks.transport.backlog",
    "tasks.transport.connection",
    "tasks.transport.output_folder",
    "tasks.transport.output_objects",
    "tasks.transport.queues",
    "tasks.transport.request_queue",
    "tasks.transport.resend_detached",
    "tasks.transport.rights",
    "tasks.transport.run_folder",
    "tasks.transport.scripts",
    "tasks.transport.spool",
    "tasks.transport.task_message",
    "tasks.transport.worker_registry",
}


def test_the_producer_imports_these_modules_of_tasks_and_no_other() -> None:
    imported = set()
    for path in Path(producer.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported.update(name.name for name in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.update(_module_of(node.module, name.name) for name in node.names)
    assert {name for name in imported if name.partition(".")[0] == "tasks"} == KNOWN


def _module_of(package: str, name: str) -> str:
    """The submodule that is imported from a package, or the module itself."""
    inside = f"{package}.{name}"
    is_submodule = package.startswith("tasks") and importlib.util.find_spec(package).submodule_search_locations
    return inside if is_submodule and importlib.util.find_spec(inside) else package


def test_errors_are_a_module_of_the_producer_with_the_very_classes() -> None:
    from producer.errors import CeleriacError
    from worker_config import errors

    assert CeleriacError is errors.CeleriacError
    assert producer.errors.RowsFailedError is errors.RowsFailedError
