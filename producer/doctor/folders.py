"""Folders: the spool that both sides share or not, the data roots, and those of this machine."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from producer.doctor.findings import MIB, Finding, count_of, error, mib, ok, warning
from producer.doctor.workers import WorkerState
from producer.scheduling.window import MAX_BYTES
from tasks.protocol.split_ref import READS_OBJECTS
from tasks.transport.spool import Place
from worker_config.errors import ExitCode
from worker_config.object_urls import ObjectUrl, is_url

# Of a temporary folder: Redis's socket, logs, and what TensorFlow leaves there.
LEAST_TEMPORARY_BYTES = 64 * MIB


@dataclass(frozen=True)
class FolderFacts:
    """A folder on this machine, or a prefix of URLs; `free` is in bytes, of folders; `why` it is not writable."""

    path: Place
    exists: bool = True
    writable: bool = True
    free: int = 0
    why: str = ""


def check_spool(here: FolderFacts | None, seen: Mapping[str, bool | None]) -> Finding:
    """The way of rows by files: `here` is the folder that `CELERIAC_SPOOL` names; `seen` as of `marks_seen`."""
    names = {name for name, mark in seen.items() if mark is not None}
    apart = sorted(name for name, mark in seen.items() if not mark)
    if here is None:
        if not names:
            return ok("spool", "none: rows go through Redis")
        found = f"{', '.join(sorted(names))} has a spool folder, CELERIAC_SPOOL names none here"
        return warning("spool", found, "set it to the same folder, if this machine sees it; rows go through Redis")
    if not here.writable:
        found = here.why or f"{here.path} cannot be written to"
        return error("spool", found, "mend its permissions, or unset CELERIAC_SPOOL", ExitCode.USAGE)
    if apart:
        found = f"{here.path} is not that of {', '.join(apart)}"
        advice = "set CELERIAC_SPOOL there to the same folder on the same file system; rows go through Redis"
        if isinstance(here.path, ObjectUrl):
            advice = "set CELERIAC_SPOOL there to the same URL, with rights to it; rows go through Redis"
        return warning("spool", found, advice)
    if isinstance(here.path, ObjectUrl):
        return ok("spool", f"{here.path}, shared with {count_of(len(seen), 'worker')}")
    found = f"{here.path}, {mib(here.free)} free"
    if here.free < MAX_BYTES:
        return warning("spool", found, f"make room: up to {mib(MAX_BYTES)} of a job are in flight")
    return ok("spool", f"{found}, shared with {count_of(len(seen), 'worker')}")


def check_data_roots(workers: Sequence[WorkerState], here: Collection[str]) -> Finding:
    """The way of rows by slices; `here` are those of the workers' roots that are folders on this machine."""
    by_worker = {worker.name: {root for slot in worker.slots for root in slot.data_roots} for worker in workers}
    every = sorted(set().union(*by_worker.values()))
    if not every:
        return ok("data roots", "none: workers read no file themselves")
    lacking = sorted(name for name, roots in by_worker.items() if roots != set(every))
    if lacking:
        found = f"{', '.join(every)}; not all of them on {', '.join(lacking)}"
        advice = "set CELERIAC_DATA_ROOTS to the same on all workers: rows are read in place where all can"
        return warning("data roots", found, advice)
    urls = [root for root in every if is_url(root)]
    unable = {worker.name for worker in workers if any(READS_OBJECTS not in slot.reads for slot in worker.slots)}
    if urls and unable:
        found = f"{', '.join(urls)}, of which {', '.join(sorted(unable))} can read no object"
        advice = "run there: pip install 'celeriac[objects]'; until then producers send such rows"
        return warning("data roots", found, advice)
    if missing := [root for root in every if root not in here]:
        found = f"{', '.join(missing)} of the workers is no folder here"
        return warning("data roots", found, "mount it here at the same path, for files that workers read in place")
    read = sorted(set.intersection(*(set(slot.reads) for worker in workers for slot in worker.slots)))
    return ok("data roots", f"{', '.join(every)}: data sets there are read in place ({', '.join(['npy', *read])})")


def check_memory_folder(memory: FolderFacts, least_bytes: int) -> Finding:
    """Where the embedded system puts payloads: in memory, or in the temporary folder."""
    usable = memory.exists and memory.writable
    if usable and memory.free >= least_bytes:
        return ok("spool", f"{memory.path}, {mib(memory.free)} free")
    what = f"{memory.path} has {mib(memory.free)} free" if usable else "no folder in memory"
    advice = f"give /dev/shm {mib(least_bytes)} (docker run --shm-size): payloads go to the temporary folder"
    return warning("spool", what, advice)


def check_temporary(folder: FolderFacts) -> Finding:
    """Where the embedded system lives."""
    if not folder.writable:
        found = f"{folder.path} cannot be written to"
        return error("temporary", found, "name another folder with TMPDIR", ExitCode.USAGE)
    found = f"{folder.path}, {mib(folder.free)} free"
    if folder.free < LEAST_TEMPORARY_BYTES:
        return warning("temporary", found, "make room, or name another folder with TMPDIR")
    return ok("temporary", found)


def check_cache(folder: FolderFacts) -> Finding:
    """Where a worker on this machine keeps snapshots; one that cannot is slower, and needs more memory."""
    if not folder.writable:
        found = f"{folder.path} cannot be written to"
        return warning("cache", found, "name another folder with CELERIAC_CACHE: each child loads a copy of its own")
    return ok("cache", f"{folder.path}, {mib(folder.free)} free")
