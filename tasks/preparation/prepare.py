"""Decides, before the fork, how children get each model; TensorFlow runs in other processes alone.

digest --> snapshot in the cache?  damaged: removed  missing: made, by a forked process, under the model's lock
       --> trials of this machine? missing: each executor in a forked process
       --> choice --> ServingSpec
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from tasks.executors import float64
from tasks.models.devices import gpus, limit_threads
from tasks.models.memory import available_bytes
from tasks.models.model_version import entry_digest, python_digests
from tasks.models.program import batch_rows_of, left_out_note
from tasks.models.tensorflow_import import import_tensorflow
from tasks.preparation.benchmark import time_own_graph, try_executor
from tasks.preparation.candidates import candidates, why_own_graph
from tasks.preparation.choice import batch_note, choose
from tasks.preparation.make_snapshot import examine_copy, make_snapshot, with_truth, without_truth
from tasks.preparation.reference import GateRows, read_reference
from tasks.preparation.serving_spec import ServingSpec
from tasks.preparation.trial_record import built_files, clear_built, known_trials, record_path
from tasks.snapshots import cache
from tasks.snapshots.executor_notes import ExecutorNotes
from tasks.snapshots.file_stamps import Stamp, stamps_of
from tasks.snapshots.forked_call import ForkedError, Work, run_forked, run_side_by_side
from tasks.snapshots.record import BUILT, Snapshot, Trial, Trials, to_file
from worker_config.errors import ConfigError, ModelLoadError
from worker_config.files import write_whole
from worker_config.manifest import ModelEntry
from worker_config.settings import Settings
from worker_config.version_folders import served_path

T = TypeVar("T")
# Of one executor, its conversion included; a compiler may never come to an end.
TRIAL_SECONDS = 300.0
# Of a snapshot that is made: its own process's, and of the weights those that the model, its graph and a run hold.
MAKING_BYTES, WEIGHTS_HELD = 512 * 2**20, 3


@dataclass(frozen=True)
class PreparationContext:
    """What `prepare` needs to know of the worker.

    Attributes:
        cache: the folder of snapshots.
        limit_bytes: how large it may become.
        threads: inside one operation of a child.
        children: how many will hold the models.
        gpus: how many this machine has.
        say: tell the person who started the worker.
        tell: what is done now, as "making a snapshot of digits", for whoever looks or waits.
        held: descriptors that keep snapshots from being pruned; `keep` are keys of others that are to stay.
    """

    cache: Path
    limit_bytes: int
    threads: int
    children: int
    gpus: int
    say: Callable[[str], None]
    tell: Callable[[str], None] = lambda doing: None
    held: list[int] = field(default_factory=list)
    keep: Collection[str] = ()

    @classmethod
    def of(
        cls,
        settings: Settings,
        threads: int,
        children: int,
        say: Callable[[str], None],
        tell: Callable[[str], None] = lambda doing: None,
    ) -> PreparationContext:
        """What these settings say of it."""
        return cls(cache.cache_folder(settings), settings.cache_mib * 2**20, threads, children, len(gpus()), say, tell)


def prepare_all(
    entries: Mapping[str, ModelEntry],
    digests: Mapping[str, str],
    context: PreparationContext,
    prepared: Callable[[], None] = lambda: None,
    at_once: int = 1,
) -> dict[str, ServingSpec]:
    """How children get these models, by name; each is told when it is `prepared`.

    So many snapshots at once are made, as memory allows; executors, whose time is taken, are tried one by one.

    Raises:
        ModelLoadError: one cannot be loaded.
    """
    failed = _make_missing(entries, digests, context, at_once) if at_once > 1 else set()
    served = {}
    # What failed beside others may have lacked memory, and else ends it now rather than after minutes.
    for name in sorted(entries, key=lambda name: name not in failed):
        served[name] = prepare(name, entries[name], digests[name], context)
        prepared()
    return {name: served[name] for name in entries}


def prepare(name: str, entry: ModelEntry, digest: str, context: PreparationContext) -> ServingSpec:
    """How children get this model.

    Raises:
        ModelLoadError: it cannot be loaded.
    """
    sources = python_digests([entry])
    plain = ServingSpec(name, digest, entry, batch_rows=entry.batch_rows, threads=context.threads, sources=sources)
    if entry.members:
        members = [prepare(link, member, entry_digest(member), context) for link, member in entry.members.items()]
        return msgspec.structs.replace(plain, members=members, note=f"a chain: {', '.join(entry.chain)}")
    if not entry.has_file:
        return msgspec.structs.replace(plain, note="a function, imported by each child")
    try:
        key = cache.cache_key(digest, entry, version("tensorflow"))
    except OSError as error:
        raise ModelLoadError(f"model {name} cannot be loaded from {entry.path}: {error.strerror}") from None
    folder = context.cache / key
    context.tell(f"looking for a snapshot of {name}")
    try:
        with cache.locked(
            context.cache, key, partial(context.tell, f"waiting for another process to prepare {name}")
        ) as (waited):
            # Before the files are read: what is written meanwhile counts as changed.
            stamps = _stamps(folder)
            snapshot = _existing(folder, name, context)
            if snapshot is None:
                snapshot = _make(name, entry, digest, key, context, waited)
                stamps = _stamps(folder)
            trials = _trials(name, folder, snapshot, entry, context) if snapshot.kind == "mapped" else None
            context.held.append(cache.use(folder))
            stamps = _stamps(folder) | stamps
    except OSError as error:
        note = f"no snapshot: {error.strerror or error} ({context.cache})"
        context.say(f"model {name}: {note}; each child loads it for itself")
        return msgspec.structs.replace(plain, note=note)
    rows = batch_rows_of(snapshot.inputs, entry)
    served = msgspec.structs.replace(
        plain, folder=str(folder), snapshot=snapshot, batch_rows=rows, files=snapshot.files, stamps=stamps
    )
    left_out = left_out_note(snapshot.left_out)
    if left_out:
        context.say(f"model {name}: {left_out}")
    if trials is None:
        return msgspec.structs.replace(served, note="; ".join(filter(None, [snapshot.why, left_out])))
    trial, note = choose(
        trials,
        entry,
        weight_bytes=snapshot.weight_bytes,
        children=context.children,
        available_bytes=available_bytes(),
    )
    if seen := ExecutorNotes(folder, trial.executor).difference():
        trial, note = trials.trials[0], seen
    if trial.unproven:
        of = ", ".join(trial.unproven[:3]) + (" ..." if len(trial.unproven) > 3 else "")
        held = f"{trial.executor} is held against the model's own graph while jobs run, as nothing is known of {of}"
        note = f"{note}; {held}" if note else held
    batch_rows = ExecutorNotes(folder, trial.executor).batch_rows(rows)
    note = "; ".join(filter(None, [note, left_out, batch_note(trial, snapshot.weight_bytes, batch_rows)]))
    built = f"{BUILT}/{trial.executor}"
    return msgspec.structs.replace(
        served,
        executor=trial.executor,
        trial=trial,
        files=snapshot.files | {name: mark for name, mark in trials.files.items() if name.startswith(built)},
        batch_rows=batch_rows,
        note=note,
        unproven=trial.unproven,
    )


def _stamps(folder: Path) -> dict[str, Stamp]:
    return stamps_of(folder, (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()))


def _existing(folder: Path, name: str, context: PreparationContext) -> Snapshot | None:
    try:
        return cache.read(folder)
    except ValueError as error:
        context.say(f"model {name}: its snapshot {folder} is damaged: {error}; it is made again")
        cache.remove(folder)
        return None


def _make_missing(
    entries: Mapping[str, ModelEntry], digests: Mapping[str, str], context: PreparationContext, at_once: int
) -> set[str]:
    """Make snapshots side by side, where several are missing; the names of models of which that has failed."""
    missing: dict[str, Work] = {}
    context = replace(context, keep=missing)
    for name, entry in entries.items():
        for link, member in (entry.members or {name: entry}).items():
            digest = entry_digest(member) if entry.members else digests[name]
            with suppress(OSError):  # the error is raised when its turn comes
                key = cache.cache_key(digest, member, version("tensorflow")) if member.has_file else ""
                if key and not (context.cache / key).exists():
                    size = MAKING_BYTES + WEIGHTS_HELD * cache.size_of(served_path(member))
                    missing[key] = Work(name, partial(_make_alone, link, member, digest, key, context), size)
    if len(missing) < 2:
        return set()
    return run_side_by_side(
        missing.values(),
        at_once,
        available_bytes(),
        lambda names: context.tell(f"making {len(missing)} snapshots, now of {', '.join(names)}"),
    )


def _make_alone(name: str, entry: ModelEntry, digest: str, key: str, context: PreparationContext) -> None:
    with cache.locked(context.cache, key) as waited:
        if _existing(context.cache / key, name, context) is None:
            _make(name, entry, digest, key, context, waited)


def _make(name: str, entry: ModelEntry, digest: str, key: str, context: PreparationContext, waited: bool) -> Snapshot:
    context.say(f"model {name}: making a snapshot, once{', which another worker did not finish' if waited else ''}")
    context.tell(f"making a snapshot of {name}")
    try:
        with cache.making(context.cache, key) as folder:
            snapshot = _forked(partial(make_snapshot, entry, digest, folder), Snapshot, folder, context.threads)
            if snapshot.kind == "copied" and snapshot.dependence is None:
                examine = partial(examine_copy, snapshot, folder)
                with suppress(ForkedError):  # nobody knows then
                    snapshot = _forked(examine, Snapshot, folder, context.threads, TRIAL_SECONDS)
            if snapshot.kind == "mapped" and not why_own_graph(snapshot, entry) and read_reference(folder).reference:
                snapshot = _with_truth(snapshot, folder, context.threads)
    except ForkedError as error:
        # A class of ours says nothing to people, and its text does.
        cause = str(error).removeprefix(f"{ConfigError.__name__}: ")
        raise ModelLoadError(f"model {name} cannot be loaded from {entry.path}: {cause}") from None
    cache.prune(context.cache, context.limit_bytes, keep=[key, *context.keep])
    return snapshot


def _with_truth(snapshot: Snapshot, folder: Path, threads: int) -> Snapshot:
    try:
        return _forked(partial(with_truth, snapshot, folder), Snapshot, folder, threads, TRIAL_SECONDS)
    except ForkedError as error:
        shutil.rmtree(folder / float64.PLACE, ignore_errors=True)
        return without_truth(snapshot, folder, str(error))


def _trials(model: str, folder: Path, snapshot: Snapshot, entry: ModelEntry, context: PreparationContext) -> Trials:
    """What executors have shown on this machine, now or at an earlier start."""
    record = record_path(folder, entry, context.threads, context.gpus)
    if known := known_trials(folder, record):
        return known
    # Another entry of the same version may have made it, whose modules stand elsewhere.
    snapshot = msgspec.structs.replace(snapshot, entry=entry)
    batch_rows = batch_rows_of(snapshot.inputs, entry)
    reference = read_reference(folder)
    names, left_out = candidates(snapshot, entry, context.gpus)
    clear_built(folder)
    if own_graph := why_own_graph(snapshot, entry):
        reference = GateRows(why=own_graph)
    if reference.why:
        graph = Trial("graph", agrees=True)
        if reference.rows:
            context.tell(f"timing {model}")
            time_it = partial(time_own_graph, folder, snapshot, batch_rows, context.threads, reference.rows)
            with suppress(ForkedError):
                graph = _forked(time_it, Trial, folder, context.threads, TRIAL_SECONDS)
        trials = [msgspec.structs.replace(graph, why=reference.why)]
    else:
        trials = []
        for number, name in enumerate(names, 1):
            context.tell(f"trying executors for {model}, {number} of {len(names)}")
            before = built_files(folder)
            trials.append(_try(name, folder, snapshot, batch_rows, context.threads))
            if not trials[-1].agrees or trials[-1].processor_seconds > trials[0].processor_seconds:
                for path in built_files(folder) - before:  # as large as the weights, and never to be used
                    path.unlink()
        trials += [Trial(name, agrees=False, why=why) for name, why in left_out.items()]
    built = {path.relative_to(folder).as_posix(): cache.fingerprint(path) for path in built_files(folder)}
    noise, no_truth = max(reference.noise, default=0.0), "" if reference.why else reference.no_truth
    found = Trials(trials, reference.label, built, reference.of, no_truth, reference.left, noise)
    write_whole(record, to_file(found))
    return found


def _try(name: str, folder: Path, snapshot: Snapshot, batch_rows: int, threads: int) -> Trial:
    def attempt() -> Trial:
        return try_executor(name, folder, snapshot, batch_rows, threads, read_reference(folder))

    try:
        trial = _forked(attempt, Trial, folder, threads, TRIAL_SECONDS)
        return msgspec.structs.replace(trial, error=_measure(trial.error), true_error=_measure(trial.true_error))
    except ForkedError as error:
        return Trial(name, agrees=False, why=str(error))


def _measure(error: float | None) -> float | None:
    """JSON has no infinity."""
    return error if error is not None and math.isfinite(error) else None


def _forked(
    function: Callable[[], T], form: Any, folder: Path, threads: int, timeout_seconds: float | None = None
) -> T:
    """Run it in a process of its own. What TensorFlow and its converters say there, nobody needs once it has ended."""

    def run() -> T:
        limit_threads(threads)
        return function()

    # Imported here, it need not be by each process that is forked.
    import_tensorflow()
    log = folder.with_name(f"{folder.name}.log")
    try:
        return run_forked(run, form, log, timeout_seconds)
    finally:
        log.unlink(missing_ok=True)
