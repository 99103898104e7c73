"""Makes a snapshot of a model, in a process of its own, and holds it against the model itself.

    model file --open_model--> Program --SavedModel, without its checkpoint--> model/
                                      --variables--> weights.bin
                                      --the rows of the gate--> reference.bin, held against what the snapshot gives

What cannot be saved so is copied as it is, and loaded plainly by each child.
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path

from msgspec.structs import replace

from tasks.accuracy.accuracy_gate import is_equal
from tasks.executors import graph
from tasks.executors.graph_operations import operations_of
from tasks.models.batches import in_batches
from tasks.models.error_text import telling_line
from tasks.models.formats import open_model
from tasks.models.program import FlatCall, Program, batch_rows_of, concrete, plain_call
from tasks.models.state import is_half, written
from tasks.preparation.independence import examine, with_chance
from tasks.preparation.reference import (
    FILE,
    add_truth,
    make_reference,
    note_no_truth,
    read_reference,
    refusal_of_blank_rows,
)
from tasks.snapshots.cache import FORMAT_VERSION, RECORD, fingerprint, fingerprints
from tasks.snapshots.copied_manifest import copy_model
from tasks.snapshots.installed import tensorflow_version
from tasks.snapshots.record import WEIGHTS, Snapshot, Weight, to_file
from tasks.snapshots.weights import write_arrays
from worker_config.errors import ConfigError
from worker_config.manifest import ModelEntry


def make_snapshot(entry: ModelEntry, digest: str, folder: Path) -> Snapshot:
    """Fill an empty folder with the snapshot of a model; raises Exception where the model cannot be loaded."""
    program = open_model(entry)
    plain = Snapshot(
        version=FORMAT_VERSION,
        kind="copied",
        digest=digest,
        tensorflow=tensorflow_version(),
        entry=entry,
        inputs=program.inputs,
        outputs=program.outputs,
        weights=[],
        weight_bytes=0,
        files={},
        why=program.why_plain,
        ordered=program.ordered,
        left_out=program.left_out,
    )
    batch_rows = batch_rows_of(program.inputs, entry)
    if program.run is None or program.why_plain:
        return _copied(plain, folder)
    try:
        weights, state, seeds = _save(program, folder)
        operations = sorted(operations_of(folder / "model"))
        call = plain_call(program)
        plain = _with_dependence(plain, call, batch_rows)
        mapped = replace(
            plain,
            kind="mapped",
            weights=weights,
            weight_bytes=sum(math.prod(one.shape) * one.dtype.size for one in program.variables),
            state=state,
            seeds=seeds,
            operations=operations,
            dependence=with_chance(plain.dependence, operations),
        )
        make_reference(folder, mapped, call, batch_rows)
        # Else no two runs of it are equal, even from the same state.
        if not any(one.on == "chance" and not one.seeded for one in mapped.dependence or ()):
            _check_equal(folder, mapped, batch_rows)
    except ConfigError:
        raise
    except Exception as error:
        for leftover in folder.iterdir():
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        why = f"no snapshot can be made of it ({type(error).__name__}: {telling_line(error)[:300]})"
        return _copied(replace(plain, why=why), folder)
    return _recorded(mapped, folder)


def _with_dependence(snapshot: Snapshot, call: FlatCall, batch_rows: int) -> Snapshot:
    function = getattr(call, "function", None)  # of TensorFlow's
    found = examine(call, snapshot.inputs, snapshot.entry, batch_rows, half=function is not None and is_half(function))
    return replace(snapshot, dependence=found)


def examine_copy(snapshot: Snapshot, folder: Path) -> Snapshot:
    """Look at what the rows of a copied model depend on, and whether it takes blank ones; note it in its record.

    To be run in a process of its own: what a file makes of rows that were made up may be its process's end.

    Raises:
        Exception: the model cannot be loaded.
    """
    copy = str(folder / "source" / snapshot.source)
    program = open_model(replace(snapshot.entry, path=copy, version=0))
    batch_rows, call = batch_rows_of(program.inputs, snapshot.entry), plain_call(program)
    found = _with_dependence(snapshot, call, batch_rows)
    refusal = "" if snapshot.entry.calibration else refusal_of_blank_rows(call, program.inputs, batch_rows)
    if refusal:
        found = replace(found, why=f"{found.why}; {refusal}")
    (folder / RECORD).write_bytes(to_file(found))
    return found


def with_truth(snapshot: Snapshot, folder: Path) -> Snapshot:
    """Add to the rows of the gate what the model gives for them in float64, and note it in the record.

    To be run in a process of its own, as `add_truth` says.
    """
    add_truth(folder, snapshot)
    return _with_reference(snapshot, folder)


def without_truth(snapshot: Snapshot, folder: Path, why: str) -> Snapshot:
    """The same where that process came to no end."""
    note_no_truth(folder, why)
    return _with_reference(snapshot, folder)


def _save(program: Program, folder: Path) -> tuple[list[Weight], list[int], list[int]]:
    """Write the model; return its weights, and which of them it writes to, and which are seeds."""
    import tensorflow as tf

    module = tf.Module()
    module.variables_of_model = list(program.variables)
    function = concrete(program)
    module.function = function
    target = str(folder / "model")
    try:
        tf.saved_model.save(module, target, signatures=function)
    except (AssertionError, ValueError):  # it reads something else: lookup tables
        shutil.rmtree(target, ignore_errors=True)
        module.tracked = program.tracked
        tf.saved_model.save(module, target, signatures=function)
    saved = tf.saved_model.load(target)
    signature = saved.signatures["serving_default"]
    weights = write_arrays(folder / WEIGHTS, ((one.name, one.numpy()) for one in signature.variables))
    shutil.rmtree(folder / "model" / "variables")
    return weights, *written(signature)


def _check_equal(folder: Path, snapshot: Snapshot, batch_rows: int) -> None:
    """The same graph on mapped weights gives the same outputs, to the bit."""
    found = read_reference(folder)
    if found.why:
        return
    outputs = in_batches(graph.load(folder, snapshot, batch_rows, 1), found.rows, batch_rows)
    for spec, expected, output in zip(snapshot.outputs, found.reference, outputs, strict=True):
        if not is_equal(expected, output):
            raise ValueError(f"output {spec.name!r} of the snapshot differs")


def _copied(snapshot: Snapshot, folder: Path) -> Snapshot:
    return _recorded(replace(snapshot, source=copy_model(snapshot.entry, folder / "source")), folder)


def _with_reference(snapshot: Snapshot, folder: Path) -> Snapshot:
    snapshot = replace(snapshot, files={**snapshot.files, FILE: fingerprint(folder / FILE)})
    (folder / RECORD).write_bytes(to_file(snapshot))
    return snapshot


def _recorded(snapshot: Snapshot, folder: Path) -> Snapshot:
    snapshot = replace(snapshot, files=fingerprints(folder))
    (folder / RECORD).write_bytes(to_file(snapshot))
    return snapshot
