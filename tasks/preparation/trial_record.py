"""Keeps, beside a snapshot, what its executors have shown on this kind of machine, and what they have built.

Trials --> trials-MACHINE.json <-- a later start, if what executors wrote for them is whole
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from tasks.executors.operation_table import RUNTIMES, TABLE, installed
from tasks.models.devices import processor
from tasks.snapshots import cache
from tasks.snapshots.record import BUILT, Trials, from_file
from worker_config.manifest import ModelEntry

_TRIALS = "trials-"


def record_path(folder: Path, entry: ModelEntry, threads: int, gpus: int) -> Path:
    """Where trials are kept. Another processor, share of it or version has another fastest executor."""
    table = hashlib.sha256(TABLE.read_bytes()).hexdigest()
    parts = [processor(), str(threads), str(gpus), entry.prefer, repr(entry.precision), table]
    parts += [installed(package) for package in sorted(set(RUNTIMES.values()))]
    machine = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]
    return folder / f"{_TRIALS}{machine}.json"


def known_trials(folder: Path, record: Path) -> Trials | None:
    """The trials that a record has, if what executors wrote for them is whole."""
    try:
        known = from_file(record.read_bytes(), Trials)
        cache.check_files(folder, known.files)
    except (OSError, ValueError):
        return None
    return known


def built_files(folder: Path) -> set[Path]:
    """What executors have written, for these trials and others."""
    return {path for path in (folder / BUILT).rglob("*") if path.is_file()}


def clear_built(folder: Path) -> None:
    """Remove what is damaged, or of trials that came to no end; what trials of other threads have found is in use."""
    found = [known_trials(folder, record) for record in folder.glob(f"{_TRIALS}*.json")]
    kept = {folder / name for trials in found if trials for name in trials.files}
    for path in built_files(folder) - kept:
        path.unlink()
