"""Reads rows from a producer's own file or object, without a copy on the way: the ref tells where they stand.

    producer: SliceRef(path, offset, dtype, row shape) --> child: under a root? still the same file? --> read

Read, not mapped: a file that shrinks under a memory map kills the process that looks at it.
"""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tasks.protocol.codec import DEFAULT_LIMIT_BYTES, DTYPES
from tasks.protocol.codec.format import FEWER_ROWS, SMALLER_ROW
from tasks.protocol.messages import SliceRef
from tasks.storage.objects import ObjectStamp
from tasks.storage.read_ahead import ReadAhead
from tasks.transport.spool import ReusableBuffer
from worker_config.errors import PayloadError
from worker_config.files import Root, is_under, split_root
from worker_config.object_urls import is_url, object_url

# On the way to a file a folder need only be passed, not listed; where the system knows the difference.
_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PASS = _LIST | getattr(os, "O_PATH", 0)


def read_slice(
    ref: SliceRef,
    start: int,
    stop: int,
    roots: Sequence[Root],
    scratch: ReusableBuffer | None = None,
    ahead: ReadAhead | None = None,
) -> np.ndarray[Any, Any]:
    """The rows `[start, stop)`, read-only; of a file they stand in `scratch`, where one is given.

    Raises:
        PayloadError: the file is not under a root, is not the one that was meant, or has no such rows.
        ObjectError: of an object, the same, or its store says why it cannot be read.
    """
    is_object = is_url(ref.path)
    place = None if is_object else split_root(ref.path, roots)
    if place is None and not (is_object and is_under(ref.path, roots)):
        what = "a URL" if is_object else "a folder"
        raise PayloadError(f"{ref.path} is not under {what} of CELERIAC_DATA_ROOTS here")
    dtype = DTYPES.get(ref.dtype)
    if dtype is None:
        raise PayloadError(f"{ref.path}: rows of dtype {ref.dtype!r} do not travel")
    row_bytes = math.prod(ref.row_shape) * dtype.itemsize
    length = (stop - start) * row_bytes
    if length > DEFAULT_LIMIT_BYTES:
        remedy = SMALLER_ROW if stop - start == 1 else FEWER_ROWS
        raise PayloadError(
            f"{ref.path}: rows {start}-{stop} have {length} bytes, the limit is {DEFAULT_LIMIT_BYTES}; {remedy}"
        )
    first = ref.offset + start * row_bytes
    if not first <= first + length <= ref.size:  # before memory is taken
        raise PayloadError(f"{ref.path} has {ref.size} bytes, and no rows {start}-{stop}; run the job again")
    if place is None:
        stamp = ObjectStamp(ref.size, ref.mtime_ns, ref.etag)
        data = (ahead or ReadAhead()).read(object_url(ref.path), stamp, first, first + length)
    else:
        data = _read(ref, place, first, length, scratch or ReusableBuffer())
    return np.frombuffer(data.toreadonly(), dtype).reshape((stop - start, *ref.row_shape))


def open_folder(root: Path, way: Path, *, listed: bool = False) -> int:
    """Open a folder step by step: a link that was put on its way after the check is an error, and is not followed.

    With `listed` for more than to open what is in it.
    """
    folder = os.open(root, _PASS)
    for step in (*way.parts, *(["."] if listed else [])):
        try:
            deeper = os.open(step, _LIST if step == "." else _PASS, dir_fd=folder)
        finally:
            os.close(folder)
        folder = deeper
    return folder


def open_beneath(root: Path, way: Path) -> int:
    """Open a file under a root, as `open_folder` opens folders."""
    folder = open_folder(root, way.parent)
    try:
        return os.open(way.name or ".", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=folder)
    finally:
        os.close(folder)


def _read(ref: SliceRef, place: tuple[Path, Path], at: int, length: int, scratch: ReusableBuffer) -> memoryview:
    try:
        fd = open_beneath(*place)
    except OSError as error:
        raise PayloadError(f"{ref.path} cannot be opened: {error.strerror}") from None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or (status.st_size, status.st_mtime_ns) != (ref.size, ref.mtime_ns):
            raise PayloadError(f"{ref.path} has changed since the job began, or is another file here")
        data = scratch.read(fd, at, length)
    finally:
        os.close(fd)
    if len(data) < length:
        raise PayloadError(f"{ref.path} ended before byte {at + length}")
    return data
