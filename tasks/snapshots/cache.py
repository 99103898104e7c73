"""The folder in which snapshots are kept: found by key, locked while made or used, bounded in size.

CACHE/KEY/          a snapshot; comes into being by one rename, when it is whole
CACHE/KEY.lock      held by whoever makes it, tries executors on it or removes it
CACHE/KEY/in-use    held, shared, by every worker whose children may load it
CACHE/.making-...   what is being made; left over when its maker died, and then removed by the next one
CACHE/...log        what TensorFlow printed meanwhile

Two walks give room back: `prune`, when a snapshot was made and the cache is too large, and `sweep`, when a person asks.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tasks.models.model_version import calibration_digest, file_digest, snapshot_digest
from tasks.snapshots.record import Snapshot, from_file
from worker_config.files import sync_file
from worker_config.foreign_errors import one_line
from worker_config.manifest import ModelEntry
from worker_config.settings import Settings

# A snapshot of another version is never used.
FORMAT_VERSION = 6
RECORD = "snapshot.json"
_IN_USE = "in-use"
_MAKING = ".making-"
# The names that we give; whatever else stands in the folder is not ours to remove.
_OURS = re.compile(r"(?:\.making-)?([0-9a-f]{32})(?:-gone-\d+)?(?:\.log|\.lock)?")


@dataclass(frozen=True)
class Swept:
    """What `sweep` removed of one key: a snapshot, by its source, or what makers that died have left."""

    key: str
    source: str
    bytes: int


def cache_folder(settings: Settings, environ: Mapping[str, str] = os.environ) -> Path:
    """Where snapshots are kept."""
    return settings.cache or Path(environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "celeriac"


def cache_key(digest: str, entry: ModelEntry, tensorflow: str) -> str:
    """The name of a model's snapshot: what it holds depends on nothing else.

    Raises:
        OSError: the calibration file, or the model's, cannot be read.
    """
    of_rows = calibration_digest(Path(entry.calibration)) if entry.calibration else hashlib.sha256().digest()
    parts = [
        snapshot_digest(entry, digest),
        tensorflow,
        str(FORMAT_VERSION),
        str(entry.batch_rows),
        str(entry.batch_mib),
        of_rows.hex(),
    ]
    if entry.allow_file_operations:  # where it is not, nobody may find one that was made when it was
        parts.append("allow_file_operations")
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


@contextmanager
def locked(cache: Path, key: str, waits: Callable[[], None] = lambda: None) -> Iterator[bool]:
    """Hold a snapshot's lock; the value tells whether somebody else had it before, for whom it `waits`.

    Raises:
        OSError: the folder cannot be written.
    """
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    path, waited, is_ours = cache / f"{key}.lock", False, False
    while not is_ours:
        with path.open("a") as file:
            if not _lock(file.fileno()):
                waited = True
                waits()
                fcntl.flock(file, fcntl.LOCK_EX)
            if is_ours := _is_at(path, file.fileno()):
                try:
                    yield waited
                finally:  # closing it alone does not, where a process that was forked meanwhile has it open
                    fcntl.flock(file, fcntl.LOCK_UN)


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
            sync_file(path)
        remove(cache / key)
        folder.rename(cache / key)
        sync_file(cache)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def read(folder: Path, files: Mapping[str, tuple[int, str]] | None = None) -> Snapshot | None:
    """The record of a snapshot; None where there is none. It is held to its own files, unless others are given.

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
        snapshot = from_file(data, Snapshot)
    except ValueError as error:
        raise ValueError(f"{RECORD} is damaged ({one_line(error)})") from None
    check_files(folder, snapshot.files if files is None else files)
    return snapshot


def check_files(folder: Path, files: Mapping[str, tuple[int, str]]) -> None:
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
    return path.stat().st_size, file_digest(path).hex()


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
    """Remove what was used longest ago until the rest is small enough; return key and bytes of each.

    That is snapshots, and copies of models that were fetched.

    Those in use, and those of `keep`, stay; so do those that somebody is making or trying executors on.
    """
    if not cache.is_dir():
        return []
    found = [(_last_use(path), path, size_of(path)) for path in cache.iterdir() if _is_whole(path)]
    total = sum(size for _, _, size in found)
    removed = []
    for _, path, size in sorted(found):
        if total <= limit_bytes:
            break
        if path.name in keep or not _is_unused(path):
            continue
        with _free(cache, path.name) as is_free:
            if not is_free or not _is_unused(path):  # somebody may have taken it just now
                continue
            remove(path)
            (cache / f"{path.name}.lock").unlink(missing_ok=True)
        total -= size
        removed.append((path.name, size))
    return removed


def sweep(cache: Path, keep: Collection[str]) -> list[Swept]:
    """Remove all snapshots but those in use and those of `keep`, and what makers that died have left.

    Raises:
        OSError: something cannot be removed.
    """
    if not cache.is_dir():
        return []
    found: dict[str, list[Path]] = {}
    for path in sorted(cache.iterdir()):
        if ours := _OURS.fullmatch(path.name):
            found.setdefault(ours[1], []).append(path)
    swept = (_sweep_key(cache, key, paths, key in keep) for key, paths in found.items())
    return [one for one in swept if one]


def _sweep_key(cache: Path, key: str, paths: list[Path], is_kept: bool) -> Swept | None:
    folder, lock = cache / key, cache / f"{key}.lock"
    with _free(cache, key) as is_free:
        if not is_free:
            return None
        is_snapshot = (folder / _IN_USE).exists()
        stays = is_snapshot and (is_kept or not _is_unused(folder))
        gone = [path for path in paths if path != lock and (path != folder or (is_snapshot and not stays))]
        source, size = _source(folder) if folder in gone else "", sum(map(size_of, gone))
        for path in gone:
            if path == folder:
                remove(path)
            elif path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        if not stays:
            lock.unlink(missing_ok=True)
    return Swept(key, source, size) if gone or (lock in paths and not stays) else None


def _source(folder: Path) -> str:
    try:
        return from_file((folder / RECORD).read_bytes(), Snapshot).entry.path
    except (OSError, ValueError):
        return ""


@contextmanager
def _free(cache: Path, key: str) -> Iterator[bool]:
    """Hold a snapshot's lock if nobody else does."""
    path = cache / f"{key}.lock"
    with path.open("a") as file:
        yield _lock(file.fileno()) and _is_at(path, file.fileno())


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether an open file still has its name: it may have been removed, and others lock another one of that name."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _last_use(folder: Path) -> float:
    try:
        return (folder / _IN_USE).stat().st_mtime
    except OSError:
        return 0.0


def _is_whole(path: Path) -> bool:
    return (path / _IN_USE).is_file() and not path.name.startswith(_MAKING)


def _is_unused(folder: Path) -> bool:
    try:
        with (folder / _IN_USE).open("a") as file:
            return _lock(file.fileno())
    except OSError:
        return False


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
