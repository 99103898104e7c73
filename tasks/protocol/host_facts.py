"""This module is what a worker tells of itself besides its slots, for `celeriac doctor`.

main process --refresh, every few seconds--> field `main` of celeriac:worker:WORKER --read_facts--> doctor

Nothing depends on it: a form that is not known here, as that of another version, is read as far as it goes.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

# What may differ between two machines and matter. TensorFlow goes by several names.
_TOLD = ("celeriac", "celery", "redis", "numpy")
_TENSORFLOW = ("tensorflow", "tensorflow-cpu", "tensorflow-rocm", "tensorflow-aarch64", "tf-nightly")


class WorkerFacts(msgspec.Struct, frozen=True):
    """A worker, as its main process sees it.

    Attributes:
        versions: of Python and of what is installed, by name.
        children: how many it keeps.
        threads: TensorFlow threads of each child.
        cores: those that it may use.
        gpus: likewise, by name.
        spool: its spool folder; empty where it has none.
        clock_ahead: seconds by which its clock is ahead of Redis's.
    """

    versions: dict[str, str] = {}
    children: int = 0
    threads: int = 0
    cores: int = 0
    gpus: list[str] = []
    spool: str = ""
    clock_ahead: float = 0.0


def facts_of(children: int, threads: int, gpus: Sequence[str], spool: Path | None) -> WorkerFacts:
    """What is known when a worker starts."""
    cores = len(os.sched_getaffinity(0))
    return WorkerFacts(versions_here(), children, threads, cores, list(gpus), str(spool or ""))


def versions_here() -> dict[str, str]:
    """Versions on this machine, by name; of what is installed alone, and without importing any of it."""
    found = {"python": platform.python_version()}
    for name in _TOLD:
        if known := version_of([name]):
            found[name] = known
    if known := version_of(_TENSORFLOW):
        found["tensorflow"] = known
    return found


def version_of(names: Iterable[str]) -> str | None:
    """The version of the first of these distributions that is installed."""
    for name in names:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


def pack_facts(facts: WorkerFacts, clock_ahead: float) -> bytes:
    """What is kept in Redis; with the clock as it stands now."""
    return msgspec.msgpack.encode(msgspec.structs.replace(facts, clock_ahead=clock_ahead))


def unpack_facts(data: bytes | None) -> WorkerFacts | None:
    """What a worker tells; None where it tells nothing that could be read."""
    try:
        return msgspec.msgpack.decode(data, type=WorkerFacts) if data else None
    except msgspec.DecodeError:
        return None
