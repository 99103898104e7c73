"""Tries executors on this machine, and keeps beside a snapshot what they have shown on its kind, and have built.

candidates --each in a forked process--> Trial --> trials-MACHINE.json <-- a later start, if what they wrote is whole

Where TensorFlow is not installed, those are tried that do without, by what the builder of the model set has made for
them: outputs of the model itself, which they are held against, are in the snapshot.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from tasks.executors import EXECUTORS
from tasks.executors.operation_table import RUNTIMES, TABLE
from tasks.models.devices import limit_threads, processor
from tasks.models.memory import available_bytes
from tasks.models.program import batch_rows_of
from tasks.models.tensorflow_import import import_tensorflow
from tasks.preparation.benchmark import time_own_graph, try_executor
from tasks.preparation.candidates import candidates, why_own_graph, without_room
from tasks.preparation.context import PreparationContext
from tasks.preparation.reference import GateRows, read_reference
from tasks.snapshots import cache
from tasks.snapshots.forked_call import ForkedError, run_forked
from tasks.snapshots.installed import installed, tensorflow_version
from tasks.snapshots.record import BUILT, Snapshot, Trial, Trials, from_file, to_file
from worker_config.files import write_whole
from worker_config.manifest import ModelEntry

T = TypeVar("T")
_TRIALS = "trials-"
# Of one executor, its conversion included; a compiler may never come to an end.
TRIAL_SECONDS = 300.0


def record_path(folder: Path, entry: ModelEntry, threads: int, gpus: int) -> Path:
    """Where trials are kept. Another processor, share of it or version has another fastest executor."""
    table = hashlib.sha256(TABLE.read_bytes()).hexdigest()
    parts = [processor(), str(threads), str(gpus), entry.prefer, repr(entry.precision), table]
    parts += [installed(package) for package in sorted(set(RUNTIMES.values()))]
    full = folder / f"{_TRIALS}{_hash(parts)}.json"
    if tensorflow_version() or full.exists():
        return full
    return folder / f"{_TRIALS}{_hash([*parts, 'no TensorFlow'])}.json"


def _hash(parts: list[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def known_trials(folder: Path, record: Path) -> Trials | None:
    """The trials that a record has, if what executors wrote for them is whole."""
    try:
        known = from_file(record.read_bytes(), Trials)
        cache.check_files(folder, known.files)
    except (OSError, ValueError):
        return None
    return known


def all_trials(folder: Path) -> list[Trials]:
    """Those of all kinds of machines that the snapshot has been on, as far as they are whole."""
    found = (known_trials(folder, record) for record in sorted(folder.glob(f"{_TRIALS}*.json")))
    return [trials for trials in found if trials]


def built_files(folder: Path) -> set[Path]:
    """What executors have written, for these trials and others."""
    return {path for path in (folder / BUILT).rglob("*") if path.is_file()}


def built_for(executor: str, folder: Path) -> bool:
    """Whether there is what an executor that does without TensorFlow needs."""
    return any(path.name.startswith(f"{executor}.") for path in built_files(folder))


def clear_built(folder: Path) -> None:
    """Remove what is damaged, or of trials that came to no end; what trials of other threads have found is in use."""
    kept = {folder / name for trials in all_trials(folder) for name in trials.files}
    for path in built_files(folder) - kept:
        path.unlink()


def trials_here(model: str, folder: Path, snapshot: Snapshot, entry: ModelEntry, context: PreparationContext) -> Trials:
    """What executors have shown on this machine, now or at an earlier start."""
    record = record_path(folder, entry, context.threads, context.gpus)
    names, left_out = candidates(snapshot, entry, context.gpus)
    if not tensorflow_version():
        names = [name for name in names if not EXECUTORS[name].needs_tensorflow and built_for(name, folder)]
    lacking = without_room(names, snapshot.weight_bytes, available_bytes())
    names = [name for name in names if name not in lacking]
    known = known_trials(folder, record)
    # What has been installed since, or has room, is tried with the others.
    if known and (not known.rows or {trial.executor for trial in known.trials}.issuperset(names)):
        return known
    # Another entry of the same version may have made it, whose modules stand elsewhere.
    snapshot = msgspec.structs.replace(snapshot, entry=entry)
    batch_rows = batch_rows_of(snapshot.inputs, entry)
    reference = read_reference(folder)
    clear_built(folder)
    if own_graph := why_own_graph(snapshot, entry):
        reference = GateRows(why=own_graph)
    if reference.why:
        trials = [msgspec.structs.replace(_timed(model, folder, snapshot, context, reference), why=reference.why)]
    else:
        trials = []
        if not tensorflow_version():
            trials.append(Trial("graph", agrees=True))  # which has made the reference
        context.say(f"model {model}: trying executors, once on this machine: {', '.join(names)}")
        for name, size in lacking.items():
            building = f"to build it takes {size / 1e9:.1f} GB of memory, more than is free"
            context.say(f"model {model}: {name} is not tried: {building}")
        for number, name in enumerate(names, 1):
            context.tell(f"trying executors for {model}, {number} of {len(names)}")
            before = built_files(folder)
            trial = _try(name, folder, snapshot, batch_rows, context.threads)
            trials.append(trial)
            is_slower = trial.processor_seconds > trials[0].processor_seconds
            if not trial.agrees or (is_slower and not _is_for_others(trial, context)):
                for path in built_files(folder) - before:  # as large as the weights, and never to be used
                    path.unlink()
        trials += [Trial(name, agrees=False, why=why) for name, why in left_out.items()]
    built = {path.relative_to(folder).as_posix(): cache.fingerprint(path) for path in built_files(folder)}
    noise, no_truth = max(reference.noise, default=0.0), "" if reference.why else reference.no_truth
    found = Trials(trials, reference.label, built, reference.of, no_truth, reference.left, noise)
    write_whole(record, to_file(found))
    return found


def _timed(model: str, folder: Path, snapshot: Snapshot, context: PreparationContext, reference: GateRows) -> Trial:
    """The own graph's, where no others are tried."""
    if reference.rows and tensorflow_version():
        context.tell(f"timing {model}")
        batch_rows = batch_rows_of(snapshot.inputs, snapshot.entry)
        time_it = partial(time_own_graph, folder, snapshot, batch_rows, context.threads, reference.rows)
        with suppress(ForkedError):
            timed: Trial = in_process(time_it, Trial, folder, context.threads, TRIAL_SECONDS)
            return timed
    return Trial("graph", agrees=True)


def _is_for_others(trial: Trial, context: PreparationContext) -> bool:
    """Whether it is for machines without TensorFlow, which this one may be."""
    return (context.is_for_others or not tensorflow_version()) and not EXECUTORS[trial.executor].needs_tensorflow


def _try(name: str, folder: Path, snapshot: Snapshot, batch_rows: int, threads: int) -> Trial:
    def attempt(call_rows: int = 0) -> Trial:
        tried = partial(try_executor, name, folder, snapshot, batch_rows, threads)
        return in_process(lambda: tried(read_reference(folder), call_rows), Trial, folder, threads, TRIAL_SECONDS)

    try:
        trial = attempt()
        if 0 < trial.call_rows < batch_rows:
            trial = attempt(trial.call_rows)
            trial = trial if trial.agrees else attempt(batch_rows)
        return msgspec.structs.replace(trial, error=_measure(trial.error), true_error=_measure(trial.true_error))
    except ForkedError as error:
        return Trial(name, agrees=False, why=str(error))


def _measure(error: float | None) -> float | None:
    """JSON has no infinity."""
    return error if error is not None and math.isfinite(error) else None


def in_process(
    function: Callable[[], T], form: Any, folder: Path, threads: int, timeout_seconds: float | None = None
) -> T:
    """Run it in a process of its own. What TensorFlow and its converters say there, nobody needs once it has ended."""

    def run() -> T:
        if tensorflow_version():
            limit_threads(threads)
        return function()

    if tensorflow_version():
        # Imported here, it need not be by each process that is forked.
        import_tensorflow()
    log = folder.with_name(f"{folder.name}.log")
    try:
        return run_forked(run, form, log, timeout_seconds)
    finally:
        log.unlink(missing_ok=True)
