"""A worker's run folder, by which its main process, its children and `tasks.health` reach each other.

main process --status, draining, queue, a file for each model version--> health, children
child        --slot-N--> main process, should Redis lose what the child registered

Each has the file `owner`, which says whose it is: a folder of a process that was killed is removed by whoever makes the
next one in the same place. The embedded system's folders are kept so, too.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.process import current_process
from pathlib import Path

import msgspec

from tasks.protocol.messages import ModelRef
from worker_config.decodable import decodable
from worker_config.foreign_errors import UNDECODABLE

PREFIX = "celeriac-worker-"
SLOT_FILES = "slot-*[0-9]"
STATUS = "status"
OWNER = "owner"
# Whether the main process of another container that shares this place lives is not seen, but it writes its status.
ABANDONED_SECONDS = 3_600.0


class Owner(msgspec.Struct, frozen=True):
    """A process: its pid says who it is within its machine's boot and its namespace of pids, while it lives."""

    pid: int
    born: int
    namespace: str


def make(prefix: str = PREFIX, place: str | Path | None = None, *, takes_all: bool = False) -> Path:
    """A folder of this process, in the temporary folder or in `place`; those of processes that were killed go.

    With `takes_all` what multiprocessing, and so Celery's pool, makes for this process is in it too: by itself that has
    a folder of its own, which stays where the process is killed.
    """
    for folder in own_folders(place):
        if _is_abandoned(folder):
            shutil.rmtree(folder, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=place))
    pid = os.getpid()
    (folder / OWNER).write_bytes(msgspec.json.encode(Owner(pid, born(pid), _namespace())))
    if takes_all:
        current_process()._config["tempdir"] = str(folder)  # type: ignore[attr-defined]
    return folder


def remove(folder: Path) -> None:
    """Remove a folder, or what can be of it."""
    shutil.rmtree(folder, ignore_errors=True)


def status_path(folder: Path) -> Path:
    """What the main process writes every two seconds."""
    return folder / STATUS


def draining_path(folder: Path) -> Path:
    """A file that is there as long as the worker drains, for children that come meanwhile: they are no slots."""
    return folder / "draining"


def queue_path(folder: Path) -> Path:
    """A file with the name of the queue of the models that are served now, for children that take requests."""
    return folder / "queue"


def slot_path(folder: Path, slot: int) -> Path:
    """The record of a slot, as its child registered it."""
    return folder / f"slot-{slot}"


def model_path(folder: Path, ref: ModelRef) -> Path:
    """How a version of a model is served, for children that there are and those to come."""
    return folder / f"{ref.name}@{ref.digest}.json"


def born(pid: int) -> int:
    """When the process began, in the kernel's ticks; -1 if it is gone, 0 where that cannot be known."""
    try:
        # The second field, the command's name, may hold anything.
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return -1 if Path("/proc/self/stat").exists() else 0
    return -1 if state == "Z" else int(fields[18])


def own_folders(place: str | Path | None = None) -> Iterator[Path]:
    """The folders of this user in a place, the temporary folder by default; also those of processes that are gone."""
    for folder in sorted(Path(place or tempfile.gettempdir()).glob("celeriac-*")):
        with suppress(OSError):
            # Anyone may make such a folder in /tmp.
            if folder.lstat().st_uid == os.geteuid() and folder.is_dir() and not folder.is_symlink():
                yield folder


def _is_abandoned(folder: Path) -> bool:
    """Whether its process is surely gone; of one that cannot be seen from here: whether it has long been silent."""
    try:
        owner = msgspec.json.decode((folder / OWNER).read_bytes(), type=decodable(Owner))
        if owner.namespace and owner.namespace == _namespace():
            return born(owner.pid) != owner.born
        return time.time() - (folder / STATUS).stat().st_mtime > ABANDONED_SECONDS
    except (OSError, *UNDECODABLE):
        return False


def _namespace() -> str:
    """Where a pid means one process: the same for two that see each other; empty where the system does not tell."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""
