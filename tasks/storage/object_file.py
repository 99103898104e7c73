"""An object as a file that readers of formats take: each read is a range, and what follows is fetched meanwhile.

    reader --read(bytes)--> range of the object that was looked at; the next one as long, by another thread

Formats read several columns at once, each piece by piece: whoever goes on where a piece ended finds the next one there.
"""

from __future__ import annotations

import io
import os
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, BinaryIO, cast

from tasks.storage.objects import ObjectStamp, read_range
from worker_config.errors import ObjectChangedError
from worker_config.object_urls import ObjectUrl

# Of small reads, such as headers; a larger read goes through as it is.
_BUFFER_BYTES = 256 * 2**10
# Fetched ahead at most, by all readers of one file.
_MOST_AHEAD = 16
_MOST_AHEAD_BYTES = 32 * 2**20


def open_object(url: ObjectUrl, stamp: ObjectStamp) -> BinaryIO:
    """A file of the bytes of an object, read-only; used by one thread at a time.

    Raises:
        ObjectError: from reads, see `read_range`.
    """
    return cast("BinaryIO", io.BufferedReader(_ObjectFile(url, stamp), _BUFFER_BYTES))


class _ObjectFile(io.RawIOBase):
    def __init__(self, url: ObjectUrl, stamp: ObjectStamp) -> None:
        self._url, self._stamp, self._at = url, stamp, 0
        self._ends: OrderedDict[int, None] = OrderedDict()
        self._ahead: OrderedDict[tuple[int, int], Future[memoryview]] = OrderedDict()
        self._pool: ThreadPoolExecutor | None = None

    @property
    def name(self) -> str:
        """For readers that tell of their file."""
        return str(self._url)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._stamp.size}[whence]
        if self._at < 0:
            raise ObjectChangedError(f"{self._url}: has no byte {self._at}; it is damaged or cut short")
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        start, stop = self._at, min(self._at + len(view), self._stamp.size)
        if start >= stop:
            return 0
        data = self._bytes(start, stop)
        view[: len(data)] = data
        self._at = start + len(data)
        return len(data)

    def close(self) -> None:
        if self._pool:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None
        self._ahead.clear()
        super().close()

    def _bytes(self, start: int, stop: int) -> memoryview:
        """What was fetched ahead as far as it has this, else a range of its own."""
        found = next((known for known in self._ahead if known[0] <= start < known[1]), None)
        goes_on = found is not None or start in self._ends
        if found:
            data = self._ahead[found].result()[start - found[0] : stop - found[0]]
            if stop >= found[1]:
                del self._ahead[found]
        else:
            data = read_range(self._url, self._stamp, start, stop)
        self._ends.pop(start, None)
        end = start + len(data)
        self._ends[end] = None
        if len(self._ends) > _MOST_AHEAD:
            self._ends.popitem(last=False)
        if goes_on and not any(known[0] <= end < known[1] for known in self._ahead):
            self._fetch(end, min(end + max(stop - start, _BUFFER_BYTES), self._stamp.size))
        return data

    def _fetch(self, start: int, stop: int) -> None:
        if start >= stop or stop - start > _MOST_AHEAD_BYTES:
            return
        room = _MOST_AHEAD_BYTES - (stop - start)
        while len(self._ahead) >= _MOST_AHEAD or sum(last - first for first, last in self._ahead) > room:
            self._ahead.popitem(last=False)[1].cancel()
        self._pool = self._pool or ThreadPoolExecutor(2, "read-ahead")
        self._ahead[start, stop] = self._pool.submit(read_range, self._url, self._stamp, start, stop)
