"""This module is memory that one process reads payloads into again and again: new pages cost more than the reading."""

from __future__ import annotations

import os

# What is larger comes rarely, and is not worth keeping.
MAX_KEPT_BYTES = 32 * 2**20


class ReusableBuffer:
    """A buffer that grows as needed; what `read` gave is overwritten by the next `read`."""

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
