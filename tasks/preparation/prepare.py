"""Decides, before the fork, how children get each model; TensorFlow runs in other processes alone.

digest --> snapshot in the cache?  damaged: removed  missing: of a set that was built elsewhere: copied
                                                     else: made, by a forked process, under the model's lock
       --> trials of this machine? missing: each executor in a forked process
       --> choice --> ServingSpec
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import msgspec

from tasks.executors import float64
from tasks.models.memory import available_bytes
from tasks.models.model_version import entry_digest, python_digests
from tasks.models.program import batch_rows_of, left_out_note
from tasks.models.tensorflow_import import mentions_tensorflow
from tasks.preparation.candidates import why_own_graph
from tasks.preparation.choice import SHARE_OF_MEMORY, batch_note, choose, choose_without_tensorflow
from tasks.preparation.context import PreparationContext
from tasks.preparation.make_snapshot import examine_copy, make_snapshot, with_truth, without_truth
from tasks.preparation.reference import read_reference
from tasks.preparation.serving_spec import ServingSpec
from tasks.preparation.trials import TRIAL_SECONDS, all_trials, in_process, trials_here
from tasks.snapshots import cache
from tasks.snapshots.built_set import Place, copy_to_cache, place_of, set_of
from tasks.snapshots.executor_notes import ExecutorNotes
from tasks.snapshots.file_stamps import Stamp, stamps_of
from tasks.snapshots.forked_call import ForkedError, Work, run_side_by_side
from tasks.snapshots.installed import tensorflow_version
from tasks.snapshots.record import BUILT, Snapshot, Trial, Trials
from worker_config.errors import ConfigError, ModelLoadError, TensorFlowNeededError
from worker_config.manifest import ModelEntry
from worker_config.model_paths import ending
from worker_config.version_folders import served_path

# Of a snapshot that is made: its own process's, and how many times the model, its graph and a run hold the weights.
MAKING_BYTES, WEIGHTS_HELD = 512 * 2**20, 6


class _NeededError(Exception):
    """Why a model needs TensorFlow, where there is none."""


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
        TensorFlowNeededError: some need TensorFlow, which is not installed here.
    """
    failed = _make_missing(entries, digests, context, at_once) if at_once > 1 and tensorflow_version() else set()
    served, needing = {}, {}
    # What failed beside others may have lacked memory, and else ends it now rather than after minutes.
    for name in sorted(entries, key=lambda name: name not in failed):
        try:
            served[name] = _prepare(name, entries[name], digests[name], context)
        except _NeededError as error:
            needing[name] = str(error)
        prepared()
    if needing:
        raise _tensorflow_needed(needing, others=sorted(served))
    return {name: served[name] for name in entries}


def prepare(name: str, entry: ModelEntry, digest: str, context: PreparationContext) -> ServingSpec:
    """How children get this model.

    Raises:
        ModelLoadError: it cannot be loaded.
        TensorFlowNeededError: it needs TensorFlow, which is not installed here.
    """
    try:
        return _prepare(name, entry, digest, context)
    except _NeededError as error:
        raise _tensorflow_needed({name: str(error)}) from None


def _prepare(name: str, entry: ModelEntry, digest: str, context: PreparationContext) -> ServingSpec:
    sources = python_digests([entry])
    plain = ServingSpec(name, digest, entry, batch_rows=entry.batch_rows, threads=context.threads, sources=sources)
    if entry.members:
        members = [_prepare(link, member, entry_digest(member), context) for link, member in entry.members.items()]
        return msgspec.structs.replace(plain, members=members, note=f"a chain: {', '.join(entry.chain)}")
    has_tensorflow = bool(tensorflow_version())
    if not has_tensorflow and mentions_tensorflow(entry, imports=False):
        raise _NeededError("a function of its own imports it")
    if not entry.has_file:
        set_of(name, entry, digest)
        return msgspec.structs.replace(plain, note="a function, imported by each child")
    try:
        place = place_of(name, entry, digest)
    except OSError as error:
        raise ModelLoadError(f"model {name} cannot be loaded from {entry.path}: {error.strerror}") from None
    if place.note:
        context.say(f"model {name}: {place.note}")
    folder = context.cache / place.name
    context.tell(f"looking for a snapshot of {name}")
    try:
        with cache.locked(
            context.cache, place.name, partial(context.tell, f"waiting for another process to prepare {name}")
        ) as (waited):
            # Before the files are read: what is written meanwhile counts as changed.
            stamps = _stamps(folder)
            snapshot = _existing(folder, name, place, context)
            if snapshot is None:
                snapshot = _taken(name, place, context) or _make(name, entry, digest, place.name, context, waited)
                stamps = _stamps(folder)
            trials = trials_here(name, folder, snapshot, entry, context) if snapshot.kind == "mapped" else None
            context.held.append(cache.use(folder))
            stamps = _stamps(folder) | stamps
    except OSError as error:
        note = f"no snapshot: {error.strerror or error} ({context.cache})"
        if not has_tensorflow:
            raise ModelLoadError(f"model {name} has {note}; name another folder with CELERIAC_CACHE") from None
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
        if not has_tensorflow and ending(Path(snapshot.source)) != ".tflite":
            raise _NeededError(f"its own file is loaded, {snapshot.why}")
        return msgspec.structs.replace(served, note="; ".join(filter(None, [snapshot.why, left_out])))
    trial, note = (_chosen if has_tensorflow else _chosen_without_tensorflow)(trials, served, context)
    if note and not has_tensorflow:
        context.say(f"model {name}: {note}")
    if trial.unproven:
        of = ", ".join(trial.unproven[:3]) + (" ..." if len(trial.unproven) > 3 else "")
        held = f"{trial.executor} is held against the model's own graph while jobs run, as nothing is known of {of}"
        note = f"{note}; {held}" if note else held
    built = f"{BUILT}/{trial.executor}"
    served = msgspec.structs.replace(
        served,
        executor=trial.executor,
        trial=trial,
        files=snapshot.files | {name: mark for name, mark in trials.files.items() if name.startswith(built)},
        batch_rows=ExecutorNotes(folder, trial.executor).batch_rows(rows),
        unproven=trial.unproven,
    )
    note = "; ".join(filter(None, [note, left_out, batch_note(trial, snapshot.weight_bytes, served.call_rows)]))
    return msgspec.structs.replace(served, note=note)


def _chosen(trials: Trials, served: ServingSpec, context: PreparationContext) -> tuple[Trial, str]:
    trial, note = choose(
        trials,
        served.entry,
        weight_bytes=served.snapshot.weight_bytes if served.snapshot else 0,
        children=context.children,
        available_bytes=available_bytes(),
    )
    if seen := ExecutorNotes(Path(served.folder), trial.executor).difference():
        return trials.trials[0], seen
    return trial, note


def _chosen_without_tensorflow(trials: Trials, served: ServingSpec, context: PreparationContext) -> tuple[Trial, str]:
    room = SHARE_OF_MEMORY * available_bytes() / context.children
    trial, note = choose_without_tensorflow(trials, all_trials(Path(served.folder)), served.entry, room)
    seen = ExecutorNotes(Path(served.folder), trial.executor).difference() if trial else ""
    if trial is None or seen:
        raise _NeededError(seen or note)
    return trial, note


def _tensorflow_needed(whys: Mapping[str, str], others: Sequence[str] = ()) -> TensorFlowNeededError:
    """What to do about models that need it, each with why."""
    named = "; ".join(f"model {name} needs it: {why}" for name, why in sorted(whys.items()))
    alone = f", or hold the others alone: --models {','.join(others)}" if others else ""
    return TensorFlowNeededError(
        f"TensorFlow is not installed here, and {named}; pip install 'celeriac[worker]'{alone}"
    )


def _stamps(folder: Path) -> dict[str, Stamp]:
    return stamps_of(folder, (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()))


def _existing(folder: Path, name: str, place: Place, context: PreparationContext) -> Snapshot | None:
    try:
        return cache.read(folder, place.files)
    except ValueError as error:
        context.say(f"model {name}: its snapshot {folder} is damaged: {error}; it is made again")
        cache.remove(folder)
        return None


def _taken(name: str, place: Place, context: PreparationContext) -> Snapshot | None:
    """The snapshot of a set that was built elsewhere, now in the cache; None where there is no such."""
    if place.built is None:
        return None
    context.tell(f"copying the snapshot of {name}")
    copy_to_cache(place, context.cache)
    cache.prune(context.cache, context.limit_bytes, keep=[place.name, *context.keep])
    return cache.read(context.cache / place.name, {})


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
                place = place_of(link, member, digest) if member.has_file else None
                if place and not place.built and not (context.cache / place.name).exists():
                    size = MAKING_BYTES + WEIGHTS_HELD * cache.size_of(served_path(member))
                    missing[place.name] = Work(name, partial(_make_alone, link, member, digest, place, context), size)
    if len(missing) < 2:
        return set()
    return run_side_by_side(
        missing.values(),
        at_once,
        available_bytes(),
        lambda names: context.tell(f"making {len(missing)} snapshots, now of {', '.join(names)}"),
    )


def _make_alone(name: str, entry: ModelEntry, digest: str, place: Place, context: PreparationContext) -> None:
    with cache.locked(context.cache, place.name) as waited:
        if _existing(context.cache / place.name, name, place, context) is None:
            _make(name, entry, digest, place.name, context, waited)


def _make(name: str, entry: ModelEntry, digest: str, key: str, context: PreparationContext, waited: bool) -> Snapshot:
    if not tensorflow_version() and ending(served_path(entry)) != ".tflite":
        raise _NeededError("it has no snapshot here, which `celeriac models --build` makes elsewhere")
    context.say(f"model {name}: making a snapshot, once{', which another worker did not finish' if waited else ''}")
    context.tell(f"making a snapshot of {name}")
    try:
        with cache.making(context.cache, key) as folder:
            snapshot = in_process(partial(make_snapshot, entry, digest, folder), Snapshot, folder, context.threads)
            if snapshot.kind == "copied" and snapshot.dependence is None:
                examine = partial(examine_copy, snapshot, folder)
                with suppress(ForkedError):  # nobody knows then
                    snapshot = in_process(examine, Snapshot, folder, context.threads, TRIAL_SECONDS)
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
        return in_process(partial(with_truth, snapshot, folder), Snapshot, folder, threads, TRIAL_SECONDS)
    except ForkedError as error:
        shutil.rmtree(folder / float64.PLACE, ignore_errors=True)
        return without_truth(snapshot, folder, str(error))
