"""This module reads rows from a producer's own file, without a copy on the way: the ref tells where they stand.

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

from tasks.codec import DEFAULT_LIMIT_BYTES
from tasks.codec.arrays import DTYPES
from tasks.messages import SliceRef
from tasks.scratch import Scratch
from worker_config.errors import PayloadError


def is_under(path: str, roots: Sequence[str | Path]) -> bool:
    """Whether a path, after its links are followed, lies under one of the roots, after theirs are."""
    real = Path(os.path.realpath(path))
    return any(real.is_relative_to(os.path.realpath(root)) for root in roots)


def read_slice(
    ref: SliceRef, start: int, stop: int, roots: Sequence[str | Path], scratch: Scratch | None = None
) -> np.ndarray[Any, Any]:
    """The rows `[start, stop)`, read-only; they stand in `scratch`, where one is given.

    Raises:
        PayloadError: the file is not under a root, is not the one that was meant, or has no such rows.
    """
    if not is_under(ref.path, roots):
        raise PayloadError(f"{ref.path} is not under a folder of CELERIAC_DATA_ROOTS here")
    dtype = DTYPES.get(ref.dtype)
    if dtype is None:
        raise PayloadError(f"{ref.path}: rows of dtype {ref.dtype!r} do not travel")
    row_bytes = math.prod(ref.row_shape) * dtype.itemsize
    length = (stop - start) * row_bytes
    if length > DEFAULT_LIMIT_BYTES:
        raise PayloadError(f"{ref.path}: rows {start}-{stop} have {length} bytes, the limit is {DEFAULT_LIMIT_BYTES}")
    data = _read(ref, ref.offset + start * row_bytes, length, scratch or Scratch())
    return np.frombuffer(data.toreadonly(), dtype).reshape((stop - start, *ref.row_shape))


def _read(ref: SliceRef, at: int, length: int, scratch: Scratch) -> memoryview:
    try:
        # The links were followed once, for the check; whoever puts one in their place now gets an error.
        fd = os.open(os.path.realpath(ref.path), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
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
