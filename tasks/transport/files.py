"""Files of both sides: written whole or not at all, brought to the disk, under a root, read into one buffer.

Nothing large is imported here: `tasks.health` is to answer at once.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

# What is larger comes rarely, and is not worth keeping.
MAX_KEPT_BYTES = 32 * 2**20


def write_whole(path: Path, data: bytes) -> None:
    """Write a file that is there with all its bytes, or not at all; the last of several writers wins."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(data)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def sync_file(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_under(path: str, roots: Sequence[str | Path]) -> bool:
    """Whether a path, after its links are followed, lies under one of the roots, after theirs are."""
    return split_root(path, roots) is not None


def split_root(path: str, roots: Sequence[str | Path]) -> tuple[Path, Path] | None:
    """The root that a path lies under, and the way from there, both without links; None where there is no such root."""
    real = Path(os.path.realpath(path))
    for root in map(Path, map(os.path.realpath, roots)):
        if real.is_relative_to(root):
            return root, real.relative_to(root)
    return None


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
