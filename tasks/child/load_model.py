"""Loads a model into a child, and runs it before the first chunk does.

ServingSpec --executor, or the file itself--> call, functions, state --rows, if it takes any--> warm --> LoadedModel
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from functools import cache, partial
from pathlib import Path

import msgspec

from tasks.accuracy.deviations import RELATIVE, Allowed
from tasks.child.loaded_model import LoadedFiles, LoadedModel
from tasks.child.model_runner import ModelRunner
from tasks.child.snapshot_check import check_files, check_outputs, known_rows
from tasks.executors import EXECUTORS
from tasks.executors.guarded import InputRange
from tasks.executors.online_check import OnlineCheck
from tasks.executors.row_picker import by_column
from tasks.models.batches import BatchSize, is_out_of_memory, run_batches
from tasks.models.error_text import typed_line
from tasks.models.formats import open_model
from tasks.models.memory import give_back, own_bytes
from tasks.models.model_version import entry_digest
from tasks.models.program import Call, Program, batch_rows_of, by_name, left_out_note, plain_call
from tasks.models.state import State, state_of
from tasks.models.tensorflow_import import import_tensorflow
from tasks.models.user_functions import import_modules, import_step
from tasks.preparation.calibration import calibration_rows
from tasks.preparation.reference import UNWARMED, refusal_of
from tasks.preparation.serving_spec import ServingSpec, chained, info_of
from tasks.protocol.records import TensorSpec
from tasks.protocol.signature import Arrays, blank_rows
from tasks.snapshots.executor_notes import ExecutorNotes
from tasks.snapshots.file_stamps import stamps_of
from tasks.snapshots.installed import tensorflow_version
from worker_config.errors import CeleriacError, ConfigError, ModelLoadError, TensorFlowNeededError

# An error may quote a whole configuration.
_CAUSE_CHARACTERS = 400
# What no other rows would mend, in the words of TensorFlow.
_NO_KERNEL = "No OpKernel was registered"


def load_model(served: ServingSpec) -> LoadedModel:
    """Load one model and run it on rows that it takes, if any are known, so that the first chunk does not pay for it.

    Raises:
        ModelLoadError: it cannot be loaded; the text names model, path and cause.
    """
    if served.needs_tensorflow:
        import_tensorflow()  # so that its own time and memory are not taken for the model's
    if served.members:
        return _load_chain(served)
    entry = served.entry
    failed = f"model {served.name} cannot be loaded from {entry.path or entry.preprocess}"
    started, memory_before = time.monotonic(), own_bytes()
    stamps = stamps_of(Path(served.folder), served.files)
    try:
        program, batch_rows, call_rows = _open(served), served.batch_rows, served.call_rows
        inputs, outputs = program.inputs, program.outputs
        if not served.snapshot:
            batch_rows = call_rows = batch_rows_of(inputs, entry)
        call: Call = _no_call
        state: State | None = None
        batch_seconds, refusal = 0.0, ""
        if entry.has_file:
            flat = plain_call(program)
            call, state = by_name(flat, inputs, outputs), state_of(flat)
            batch_seconds, refusal = _warm_up(call, served, inputs, batch_rows, call_rows)
        give_back()
        preprocess = import_step(entry.preprocess, entry.folder) if entry.preprocess else None
        postprocess = import_step(entry.postprocess, entry.folder) if entry.postprocess else None
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
    more = ["" if UNWARMED in info.note else refusal, "" if served.snapshot else left_out_note(program.left_out)]
    info = msgspec.structs.replace(info, note="; ".join(filter(None, [info.note, *more])))
    # A row that depends on others, or on calls, cannot be held against what it would be without them.
    can_be_held = state is None and not info.dependence
    runner = _runner(served, call, inputs, outputs, call_rows, can_be_held)
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
    call_rows: int,
    can_be_held: bool,
) -> ModelRunner:
    executor, notes = served.executor, ExecutorNotes(Path(served.folder), served.executor)
    # Rows that depend on their batch would not bear another one.
    fixed = not served.entry.independent_rows or any(spec.shape and spec.shape[0] is not None for spec in inputs)
    remember = notes.note_batch_rows if served.folder else None
    size = BatchSize(call_rows, served.entry.batch_bytes, fixed, remember, served.call_seconds)
    if executor not in EXECUTORS or executor == "graph":
        return ModelRunner(served.name, call, size)
    limits = InputRange(served.trial.limit, served.trial.tiny, served.trial.integers) if served.trial else InputRange()
    check = None
    if served.unproven and can_be_held:
        allowed = _allowed(served)
        columns = by_column("inputs", inputs) | by_column("outputs", outputs)
        check = OnlineCheck(executor, allowed, call_rows, columns, notes)
    return ModelRunner(served.name, call, size, cache(partial(_own_graph, served)), limits, check, executor)


def _allowed(served: ServingSpec) -> Allowed:
    """What the gate has allowed the executor, row by row."""
    apart = max(RELATIVE, served.trial.apart if served.trial else 0.0)
    is_float32, entry = EXECUTORS[served.executor].precision == "float32", served.entry
    return Allowed(is_float32 and not entry.float32_tolerance, entry.tolerance, apart)


def _own_graph(served: ServingSpec) -> Call:
    if not tensorflow_version():
        raise TensorFlowNeededError(
            f"model {served.name}: {served.executor} is not for this row, or refuses it, and the model's own graph "
            "needs TensorFlow, which this worker is without; run it with workers of celeriac[worker], or leave such "
            "rows out with on_error 'skip' or 'fill'"
        )
    import_tensorflow()  # which this child may have done without so far
    program = _open(msgspec.structs.replace(served, executor="graph"))
    return by_name(plain_call(program), program.inputs, program.outputs)


def _open(served: ServingSpec) -> Program:
    folder, snapshot, entry = Path(served.folder), served.snapshot, served.entry
    check_files(served)
    if served.executor not in EXECUTORS or EXECUTORS[served.executor].needs_tensorflow:
        import_modules(entry)  # of whose operations and classes others know nothing
    if snapshot and snapshot.kind == "mapped":
        call = EXECUTORS[served.executor].load(folder, snapshot, served.call_rows, served.threads)
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


def _warm_up(
    call: Call, served: ServingSpec, inputs: list[TensorSpec], batch_rows: int, call_rows: int
) -> tuple[float, str]:
    """Run the model twice on rows that it is known to take; else on those of its calibration file, or blank ones.

    What it makes of rows that nobody gave it is no matter of loading: if it refuses them, its first batch warms it up.

    Returns:
        What a batch takes, as the second run tells, 0 where nobody knows; and why it is not warm, empty where it is.

    Raises:
        ModelLoadError: it gives other outputs than it gave before.
        Exception: it fails on rows that it took before, or on any.
    """
    known = known_rows(served)
    is_free = any(size is None for spec in inputs for size in spec.shape[1:])
    if known.rows:
        rows = {spec.name: array[:batch_rows] for spec, array in zip(inputs, known.rows, strict=True)}
        outputs, seconds = _second_run(call, rows, call_rows, served.name)
        check_outputs(served, known, outputs)
        for few in served.small_batches:  # whose first call may build what the next ones use
            run_batches(call, {name: array[:few] for name, array in rows.items()}, few, served.name)
        return 0.0 if is_free else seconds, ""
    kind, rows = "calibration", _calibration(served, inputs, batch_rows)
    if not rows:
        if is_free:
            return 0.0, UNWARMED  # no blank row of a free shape is sure to be valid
        kind, rows = "blank", blank_rows(inputs)
    try:
        _, seconds = _second_run(call, rows, call_rows, served.name)
    except Exception as error:
        if isinstance(error, CeleriacError) or is_out_of_memory(error) or _NO_KERNEL in str(error):
            raise
        return 0.0, refusal_of(kind, error)
    return 0.0 if is_free else seconds, ""


def _calibration(served: ServingSpec, inputs: list[TensorSpec], batch_rows: int) -> Arrays:
    """The first rows of the manifest's calibration file; none where there is none, or it has changed for the worse."""
    if served.entry.calibration:
        with suppress(ConfigError):
            rows, _ = calibration_rows(Path(served.entry.calibration), inputs, batch_rows)
            return {spec.name: array[:batch_rows] for spec, array in zip(inputs, rows, strict=True)}
    return {}


def _second_run(call: Call, rows: Arrays, call_rows: int, name: str) -> tuple[Arrays, float]:
    """What the first run gave, and the seconds of the second."""
    outputs = run_batches(call, rows, call_rows, name)
    started = time.monotonic()
    run_batches(call, rows, call_rows, name)
    return outputs, time.monotonic() - started
