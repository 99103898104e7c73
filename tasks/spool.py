"""This module keeps payloads as files in a folder that producer and workers share: memory on one machine, or a network.

SPOOL/JOB/NAME      a payload, whole before anybody is told of it
SPOOL/.MARK         made by a worker; a producer that sees it has the same folder
"""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from tasks.messages import FileRef
from worker_config.errors import PayloadError


def write(spool: Path, job: str, name: str, payload: bytes) -> FileRef:
    """Store a payload; two that are written under one name do not meet.

    Raises:
        OSError: the folder is full, or not to be written.
    """
    ref = FileRef(f"{job}/{name}-{secrets.token_hex(4)}")
    path = spool / ref.name
    try:
        try:
            path.write_bytes(payload)
        except FileNotFoundError:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            path.write_bytes(payload)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return ref


def read(spool: Path | None, ref: FileRef) -> bytes:
    """A payload.

    Raises:
        PayloadError: it is not there, or there is no spool folder here.
    """
    if spool is None:
        raise PayloadError("the payload is in a spool folder, but CELERIAC_SPOOL names none here")
    try:
        return (spool / ref.name).read_bytes()
    except OSError as error:
        raise PayloadError(f"the payload {spool / ref.name} cannot be read: {error.strerror}") from None


def forget(spool: Path, refs: Iterable[FileRef]) -> None:
    """Delete payloads."""
    for ref in refs:
        with suppress(OSError):
            (spool / ref.name).unlink()


def forget_job(spool: Path, job: str) -> None:
    """Delete whatever a job has left."""
    shutil.rmtree(spool / job, ignore_errors=True)


def forget_old_jobs(spool: Path, ttl_seconds: float) -> None:
    """Delete what producers that were killed have left, after the time that Redis gives to keys."""
    with suppress(OSError):
        for folder in spool.glob("[0-9a-f]" * 12):
            if time.time() - folder.stat().st_mtime > ttl_seconds:
                shutil.rmtree(folder, ignore_errors=True)


def make_mark(spool: Path) -> str:
    """Leave a mark that tells this folder from others of the same name on other machines."""
    mark = f".worker-{secrets.token_hex(8)}"
    (spool / mark).touch()
    return mark


def has_mark(spool: Path, mark: str) -> bool:
    """Whether this is the folder in which a worker made `mark`."""
    return bool(mark) and "/" not in mark and (spool / mark).exists()


def remove_mark(spool: Path, mark: str) -> None:
    """Take the mark away when the worker ends."""
    with suppress(OSError):
        (spool / mark).unlink()
