"""This module is the folder in which snapshots are kept: found by key, locked while made or used, bounded in size.

CACHE/KEY/          a snapshot; comes into being by one rename, when it is whole
CACHE/KEY.lock      held by whoever makes it or tries executors on it
CACHE/KEY/in-use    held, shared, by every worker whose children may load it
CACHE/.making-...   what is being made; left over when its maker died, and then removed by the next one
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from tasks.snapshots.record import Snapshot
from worker_config.manifest import ModelEntry

# A snapshot of another version is never used.
FORMAT_VERSION = 1
RECORD = "snapshot.json"
_IN_USE = "in-use"
_MAKING = ".making-"


def cache_key(digest: str, entry: ModelEntry, tensorflow: str) -> str:
    """The name of a model's snapshot: what it holds depends on nothing else."""
    of_rows = Path(entry.calibration).read_bytes() if entry.calibration else b""
    parts = [digest, tensorflow, str(FORMAT_VERSION), str(entry.batch_rows), hashlib.sha256(of_rows).hexdigest()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


@contextmanager
def locked(cache: Path, key: str) -> Iterator[bool]:
    """Hold a snapshot's lock; the value tells whether somebody else had it before.

    Raises:
        OSError: the folder cannot be written.
    """
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (cache / f"{key}.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            waited = False
        except BlockingIOError:
            waited = True
            fcntl.flock(file, fcntl.LOCK_EX)
        yield waited


@contextmanager
def making(cache: Path, key: str) -> Iterator[Path]:
    """A folder to make a snapshot in, which takes its name at the end; removed if something is raised."""
    for leftover in cache.glob(f"{_MAKING}{key}*"):  # whoever made it is dead, since we hold the lock
        shutil.rmtree(leftover, ignore_errors=True)
    folder = cache / f"{_MAKING}{key}"
    folder.mkdir(mode=0o700)
    try:
        yield folder
        (folder / _IN_USE).touch()
        for path in folder.rglob("*"):
            _bring_to_disk(path)
        remove(cache / key)
        folder.rename(cache / key)
        _bring_to_disk(cache)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def read(folder: Path) -> Snapshot | None:
    """The record of a snapshot; None where there is none.

    Raises:
        ValueError: it is damaged; the text says how.
    """
    try:
        data = (folder / RECORD).read_bytes()
    except FileNotFoundError:
        if not folder.exists():
            return None
        raise ValueError(f"{RECORD} is missing") from None
    try:
        snapshot = msgspec.json.decode(data, type=Snapshot)
    except msgspec.DecodeError as error:
        raise ValueError(f"{RECORD} is damaged ({error})") from None
    check_files(folder, snapshot.files)
    return snapshot


def check_files(folder: Path, files: dict[str, tuple[int, str]]) -> None:
    """Make sure that files are as they were written.

    Raises:
        ValueError: one is missing, or other bytes stand in it.
    """
    for name, expected in files.items():
        try:
            if fingerprint(folder / name) != expected:
                raise ValueError(f"{name} is damaged")
        except OSError as error:
            raise ValueError(f"{name} cannot be read ({error.strerror})") from None


def fingerprint(path: Path) -> tuple[int, str]:
    """A file's size and SHA-256."""
    with path.open("rb") as file:
        return os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest()


def fingerprints(folder: Path) -> dict[str, tuple[int, str]]:
    """Those of all files of a folder, by their paths in it."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): fingerprint(path) for path in paths}


def use(folder: Path) -> int:
    """Keep a snapshot from being pruned as long as the descriptor is open, in this process or one forked from it."""
    descriptor = os.open(folder / _IN_USE, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    os.utime(folder / _IN_USE)
    return descriptor


def remove(folder: Path) -> None:
    """Delete a snapshot; what children have mapped of it stays with them."""
    if not folder.exists():
        return
    grave = folder.with_name(f"{_MAKING}{folder.name}-gone-{os.getpid()}")
    folder.rename(grave)  # in one step, so that no half of it is ever found
    shutil.rmtree(grave, ignore_errors=True)


def prune(cache: Path, limit_bytes: int, keep: Collection[str] = ()) -> list[tuple[str, int]]:
    """Remove the least recently used snapshots until the rest is small enough; return key and bytes of each.

    Those in use, and those of `keep`, stay.
    """
    if not cache.is_dir():
        return []
    found = [(_last_use(path), path, _size(path)) for path in cache.iterdir() if (path / RECORD).is_file()]
    total = sum(size for _, _, size in found)
    removed = []
    for _, path, size in sorted(found):
        if total <= limit_bytes:
            break
        if path.name in keep or not _is_unused(path):
            continue
        remove(path)
        total -= size
        removed.append((path.name, size))
    return removed


def _last_use(folder: Path) -> float:
    try:
        return (folder / _IN_USE).stat().st_mtime
    except OSError:
        return 0.0


def _is_unused(folder: Path) -> bool:
    try:
        with (folder / _IN_USE).open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except OSError:
        return False


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _bring_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
