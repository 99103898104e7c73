"""Loads a model into a child, and runs it before the first chunk does.

ServingSpec --executor, or the file itself--> call, functions, state --known or blank rows--> warm --> LoadedModel
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path

import msgspec

from tasks.child.loaded_model import LoadedFiles, LoadedModel
from tasks.child.model_runner import ModelRunner
from tasks.child.snapshot_check import check_files, check_outputs, known_rows
from tasks.executors import EXECUTORS
from tasks.executors.deviations import Allowed
from tasks.executors.guarded import InputRange
from tasks.executors.online_check import OnlineCheck
from tasks.executors.row_picker import by_column
from tasks.models.batches import BatchSize, run_batches
from tasks.models.error_text import telling_line, typed_line
from tasks.models.formats import open_model
from tasks.models.memory import give_back, own_bytes
from tasks.models.model_version import entry_digest
from tasks.models.program import Call, Program, batch_rows_of, by_name, plain_call
from tasks.models.state import State, state_of
from tasks.models.tensorflow_import import import_tensorflow, needs_tensorflow
from tasks.models.user_functions import import_step
from tasks.preparation.reference import GateRows
from tasks.preparation.serving_spec import ServingSpec, chained, info_of
from tasks.protocol.records import TensorSpec
from tasks.protocol.signature import Arrays, blank_rows
from tasks.snapshots.executor_notes import ExecutorNotes
from tasks.snapshots.file_stamps import stamps_of
from worker_config.errors import ModelLoadError

logger = logging.getLogger(__name__)

# An error may quote a whole configuration.
_CAUSE_CHARACTERS = 400
# By name, so as not to import TensorFlow: what it, and TFLite's interpreter, raise for rows that they refuse.
_OF_ROWS = frozenset(("InvalidArgumentError", "OutOfRangeError", "RuntimeError"))


def load_model(served: ServingSpec) -> LoadedModel:
    """Load one model and run it once on blank rows, so that the first chunk does not pay for it.

    Raises:
        ModelLoadError: it cannot be loaded; the text names model, path and cause.
    """
    if needs_tensorflow([served.entry]):
        import_tensorflow()  # so that its own time and memory are not taken for the model's
    if served.members:
        return _load_chain(served)
    entry = served.entry
    failed = f"model {served.name} cannot be loaded from {entry.path or entry.preprocess}"
    started, memory_before = time.monotonic(), own_bytes()
    stamps = stamps_of(Path(served.folder), served.files)
    try:
        program, batch_rows = _open(served), served.batch_rows
        inputs, outputs = program.inputs, program.outputs
        if not served.snapshot:
            batch_rows = batch_rows_of(inputs, entry)
        call: Call = _no_call
        state: State | None = None
        batch_seconds = 0.0
        if entry.has_file:
            flat = plain_call(program)
            call, state = by_name(flat, inputs, outputs), state_of(flat)
            batch_seconds = _warm_up(call, served, inputs, batch_rows, known_rows(served))
        give_back()
        preprocess = import_step(entry.preprocess) if entry.preprocess else None
        postprocess = import_step(entry.postprocess) if entry.postprocess else None
    except ModelLoadError as error:
        raise ModelLoadError(f"{failed}: {error}") from error
    except Exception as error:
        raise ModelLoadError(f"{failed}: {_cause(error)}") from error
    if not served.folder and entry_digest(entry) != served.digest:
        # Jobs are pinned to the files that the worker began with; a child that comes later may find others.
        raise ModelLoadError(f"{failed}: its files have changed since the worker started; start it again")
    info = info_of(
        served,
        inputs,
        outputs,
        ordered=program.ordered,
        batch_rows=batch_rows,
        load_seconds=time.monotonic() - started,
        memory_bytes=max(0, own_bytes() - memory_before),
        batch_seconds=batch_seconds,
    )
    # A row that depends on others, or on calls, cannot be held against what it would be without them.
    can_be_held = state is None and not info.dependence
    runner = _runner(served, call, inputs, outputs, batch_rows, can_be_held)
    files = LoadedFiles(Path(served.folder), stamps)
    return LoadedModel(info, runner, preprocess, postprocess, program.function, state, files=files)


def _load_chain(served: ServingSpec) -> LoadedModel:
    started = time.monotonic()
    links = tuple(map(load_model, served.members))
    info = chained(served, [link.info for link in links], time.monotonic() - started)
    return LoadedModel(info, ModelRunner(served.name, _no_call, BatchSize(info.batch_rows)), chain=links)


def _runner(
    served: ServingSpec,
    call: Call,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    batch_rows: int,
    can_be_held: bool,
) -> ModelRunner:
    executor, notes = served.executor, ExecutorNotes(Path(served.folder), served.executor)
    # Rows that depend on their batch would not bear another one.
    fixed = not served.entry.independent_rows or any(spec.shape and spec.shape[0] is not None for spec in inputs)
    size = BatchSize(batch_rows, served.entry.batch_bytes, fixed, notes.note_batch_rows if served.folder else None)
    if executor not in EXECUTORS or executor == "graph":
        return ModelRunner(served.name, call, size)
    limits = InputRange(served.trial.limit, served.trial.tiny) if served.trial else InputRange()
    check = None
    if served.unproven and can_be_held:
        allowed = Allowed(EXECUTORS[executor].precision == "float32", served.entry.tolerance)
        columns = by_column("inputs", inputs) | by_column("outputs", outputs)
        check = OnlineCheck(executor, allowed, batch_rows, columns, notes)
    return ModelRunner(served.name, call, size, cache(partial(_own_graph, served)), limits, check, executor)


def _own_graph(served: ServingSpec) -> Call:
    program = _open(msgspec.structs.replace(served, executor="graph"))
    return by_name(plain_call(program), program.inputs, program.outputs)


def _open(served: ServingSpec) -> Program:
    folder, snapshot, entry = Path(served.folder), served.snapshot, served.entry
    check_files(served)
    if snapshot and snapshot.kind == "mapped":
        call = EXECUTORS[served.executor].load(folder, snapshot, served.batch_rows, served.threads)
        return Program(snapshot.inputs, snapshot.outputs, call=call, ordered=snapshot.ordered)
    if snapshot:  # the file itself may have another version by now
        copy = folder / "source" / snapshot.source
        entry = msgspec.structs.replace(entry, path=str(copy), version=0)
    return open_model(entry)


def _cause(error: Exception) -> str:
    """Keras and TensorFlow explain over many lines; the first that says something will do."""
    if isinstance(error, FileNotFoundError) and error.strerror:
        return error.strerror
    return typed_line(error, _CAUSE_CHARACTERS)


def _no_call(arrays: Arrays) -> Arrays:
    raise AssertionError("a function has no inputs to be called with")


def _warm_up(call: Call, served: ServingSpec, inputs: list[TensorSpec], batch_rows: int, known: GateRows) -> float:
    """Run the model twice on rows that it is known to take, or blank ones; the second time tells what a batch takes.

    A model may refuse rows that nobody gave it: 0 then, and its first chunk pays for the warm-up.

    Raises:
        ModelLoadError: it gives other outputs than it gave before.
        Exception: it fails on rows that it took before.
    """
    is_free = any(size is None for spec in inputs for size in spec.shape[1:])
    if known.rows:
        rows = {spec.name: array[:batch_rows] for spec, array in zip(inputs, known.rows, strict=True)}
        outputs, seconds = _second_run(call, rows, batch_rows, served.name)
        check_outputs(served, known, outputs)
        return 0.0 if is_free else seconds
    if is_free:
        return 0.0  # no blank row of a free shape is sure to be valid
    try:
        return _second_run(call, blank_rows(inputs), batch_rows, served.name)[1]
    except Exception as error:
        if type(error).__name__ not in _OF_ROWS:
            raise
        logger.info("model %s does not take blank rows: %s", served.name, telling_line(error))
    return 0.0


def _second_run(call: Call, rows: Arrays, batch_rows: int, name: str) -> tuple[Arrays, float]:
    """What the first run gave, and the seconds of the second."""
    outputs = run_batches(call, rows, batch_rows, name)
    started = time.monotonic()
    run_batches(call, rows, batch_rows, name)
    return outputs, time.monotonic() - started
