"""Keeps payloads where producer and workers share a place: a folder, in memory or of a network, or a URL of objects.

SPOOL/JOB/NAME         a payload, whole before anybody is told of it
SPOOL/JOB/free-TOKEN   a file that nobody needs any more; the job's next payload is written over it
SPOOL/.MARK            made by a worker; a producer that sees it has the same folder

Beneath a URL there are the same names, but no free files. Files are used again since a new one costs several times as
much as what is written into it: the system has to find and clear its pages.
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

from tasks.protocol.messages import FileRef
from tasks.protocol.seal import Part, Parts
from tasks.storage import payload_objects
from worker_config.errors import ObjectError, PayloadError
from worker_config.object_urls import ObjectUrl

# Where payloads are.
Place: TypeAlias = Path | ObjectUrl

_FREE = "free-"
# The system takes no more parts of one write.
_PARTS_AT_ONCE = 512

# What is larger comes rarely, and is not worth keeping.
MAX_KEPT_BYTES = 32 * 2**20


class ReusableBuffer:
    """Memory for payloads that one process reads: new pages cost more than the reading.

    It grows as needed; what `read` gave is overwritten by the next `read`.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()

    def read(self, fd: int, at: int, length: int) -> memoryview:
        """Up to `length` bytes of a file from `at` on; fewer where it ends before.

        Raises:
            OSError: the file cannot be read.
        """
        buffer = self._buffer
        if length > len(buffer):
            # Never resized: somebody may still look at the old one.
            buffer = bytearray(length)
            if length <= MAX_KEPT_BYTES:
                self._buffer = buffer
        view = memoryview(buffer)
        done = 0
        while done < length and (more := os.preadv(fd, [view[done:length]], at + done)):
            done += more
        return view[:done]


def write(spool: Place, job: str, name: str, parts: Parts) -> FileRef:
    """Store a payload, given in parts; two that are written under one name do not meet.

    Raises:
        OSError: it is full, or not to be written.
    """
    ref = FileRef(f"{job}/{name}-{secrets.token_hex(4)}")
    if isinstance(spool, ObjectUrl):
        try:
            payload_objects.write(spool, ref.name, parts)
        except ObjectError as error:
            raise OSError(str(error)) from None
        return ref
    path = spool / ref.name
    try:
        fd = _open_for(path)
        try:
            _write_over(fd, parts)
        finally:
            os.close(fd)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return ref


def read(spool: Place | None, ref: FileRef, scratch: ReusableBuffer | None = None) -> bytes | memoryview:
    """A payload; with `scratch` it stands there, until the next one is read.

    Raises:
        PayloadError: it is not there, or there is no spool folder here.
    """
    if spool is None:
        raise PayloadError("the payload is in a spool folder, but CELERIAC_SPOOL names none here")
    if isinstance(spool, ObjectUrl):
        return payload_objects.read(spool, ref.name)
    path = spool / ref.name
    try:
        if scratch is None:
            return path.read_bytes()
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return scratch.read(fd, 0, os.fstat(fd).st_size)
        finally:
            os.close(fd)
    except OSError as error:
        raise PayloadError(f"the payload {path} cannot be read: {error.strerror}") from None


def read_into(spool: Place | None, ref: FileRef, head: bytearray, parts: Parts) -> bool:
    """Read a payload over the arrays whose `codec.encode_parts` are `parts`, if it is one of arrays of that form.

    Its seal's head goes to `head`. False if it is not, or is not there; what stands in the arrays is then of no use.
    """
    if isinstance(spool, ObjectUrl):
        return False
    # The heads say what the arrays are, so they must be the same; between them the arrays' own memory is filled.
    heads = {at: bytearray(len(part)) for at, part in enumerate(parts) if isinstance(part, bytes)}
    buffers: list[Part] = [head, *(heads.get(at, part) for at, part in enumerate(parts))]
    length = sum(map(len, buffers))
    try:
        fd = os.open((spool or Path()) / ref.name, os.O_RDONLY | os.O_CLOEXEC)
        try:
            whole = os.fstat(fd).st_size == length and os.preadv(fd, buffers, 0) == length
        finally:
            os.close(fd)
    except OSError:
        return False
    return whole and all(bytes(found) == bytes(parts[at]) for at, found in heads.items())


def release(spool: Place, refs: Iterable[FileRef]) -> None:
    """Let the files of payloads be written over; for those alone whose readers, if there are any, nobody believes."""
    if isinstance(spool, ObjectUrl):
        payload_objects.forget(spool, [ref.name for ref in refs])
        return
    for ref in refs:
        path = spool / ref.name
        with suppress(OSError):
            path.rename(path.with_name(_FREE + secrets.token_hex(8)))


def forget(spool: Place, refs: Iterable[FileRef]) -> None:
    """Delete payloads, and a job's folder with the last of them; who reads one right now reads it to its end."""
    if isinstance(spool, ObjectUrl):
        payload_objects.forget(spool, [ref.name for ref in refs])
        return
    for ref in refs:
        path = spool / ref.name
        with suppress(OSError):
            path.unlink()
            path.parent.rmdir()  # as long as nothing is in it


def forget_job(spool: Place, job: str) -> None:
    """Delete whatever a job has left."""
    if isinstance(spool, ObjectUrl):
        payload_objects.forget_job(spool, job)
        return
    shutil.rmtree(spool / job, ignore_errors=True)


def forget_old_jobs(spool: Place, ttl_seconds: float) -> None:
    """Delete what producers that were killed have left, after the time that Redis gives to keys."""
    if isinstance(spool, ObjectUrl):
        payload_objects.forget_old_jobs(spool, ttl_seconds)
        return
    with suppress(OSError):
        for folder in spool.glob("[0-9a-f]" * 12):
            if time.time() - folder.stat().st_mtime > ttl_seconds:
                shutil.rmtree(folder, ignore_errors=True)


def make_mark(spool: Place) -> str:
    """Leave a mark that tells this place from others of the same name on other machines.

    Raises:
        ObjectError: beneath a URL none can be left.
    """
    mark = f".worker-{secrets.token_hex(8)}"
    if isinstance(spool, ObjectUrl):
        payload_objects.write(spool, mark, [b"\n"])
        return mark
    (spool / mark).touch()
    return mark


def has_mark(spool: Place, mark: str) -> bool:
    """Whether this is the place in which a worker made `mark`."""
    if not mark or "/" in mark:
        return False
    return payload_objects.is_there(spool, mark) if isinstance(spool, ObjectUrl) else (spool / mark).exists()


def remove_mark(spool: Place, mark: str) -> None:
    """Take the mark away when the worker ends."""
    if isinstance(spool, ObjectUrl):
        payload_objects.forget(spool, [mark])
        return
    with suppress(OSError):
        (spool / mark).unlink()


def _open_for(path: Path) -> int:
    """A file of that name, open for writing: one that is free, or a new one."""
    flags = os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        free = [entry.path for entry in os.scandir(path.parent) if entry.name.startswith(_FREE)]
    except FileNotFoundError:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        free = []
    for file in free:
        with suppress(FileNotFoundError):  # another process was faster
            Path(file).rename(path)
            return os.open(path, flags)
    return os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)


def _write_over(fd: int, parts: Parts) -> None:
    todo = [memoryview(part).cast("B") for part in parts if len(part)]
    size = 0
    while todo:
        done = os.writev(fd, todo[:_PARTS_AT_ONCE])
        size += done
        while todo and done >= len(todo[0]):
            done -= len(todo.pop(0))
        if done:
            todo[0] = todo[0][done:]
    if os.fstat(fd).st_size > size:
        os.ftruncate(fd, size)
