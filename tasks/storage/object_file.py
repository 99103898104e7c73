"""An object as a file that readers of formats take: each read is a range, and what follows is fetched meanwhile.

    reader --fetch_ranges--> the pieces that it will read, fetched side by side by other threads
           --read(bytes)---> what was fetched, or a range of its own; then the next one as long, by another thread

Formats that know what they will read tell it. Of others, who goes on where a piece ended finds the next one there.
"""

from __future__ import annotations

import io
import os
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import Future
from typing import Any, BinaryIO, cast

from tasks.storage.background import fetch
from tasks.storage.objects import PIECE_BYTES, ObjectStamp, read_range
from worker_config.errors import ObjectChangedError
from worker_config.object_urls import ObjectUrl

# Of small reads, such as headers; a larger read goes through as it is.
_BUFFER_BYTES = 256 * 2**10
# What lies between two ranges costs less than another request.
_GAP_BYTES = 64 * 2**10
# Fetched at most of one file: of what was guessed, or told for later.
_MOST_AHEAD = 16
MOST_AHEAD_BYTES = 32 * 2**20
# Of what is read next; of all that was told at most as much as both.
MOST_NEXT_BYTES = 64 * 2**20

_Piece = tuple[int, int]


def open_object(url: ObjectUrl, stamp: ObjectStamp) -> BinaryIO:
    """A file of the bytes of an object, read-only; used by one thread at a time.

    Raises:
        ObjectError: from reads, see `read_range`.
    """
    return cast("BinaryIO", io.BufferedReader(_ObjectFile(url, stamp), _BUFFER_BYTES))


def fetch_ranges(file: BinaryIO, ranges: Iterable[_Piece], *, ahead: bool = False) -> None:
    """Begin to fetch the bytes `[start, stop)` of a file that are read next, where it is an object; of too many none.

    They are kept until what is told stands behind them; with `ahead` they are for later, and what is before them is
    kept too. What cannot be fetched is told by the read that wants it.
    """
    raw = getattr(file, "raw", None)
    if isinstance(raw, _ObjectFile):
        raw.fetch(ranges, ahead)


class _ObjectFile(io.RawIOBase):
    def __init__(self, url: ObjectUrl, stamp: ObjectStamp) -> None:
        self._url, self._stamp, self._at = url, stamp, 0
        self._ends: OrderedDict[int, None] = OrderedDict()
        self._told: dict[_Piece, Future[memoryview]] = {}
        self._guessed: OrderedDict[_Piece, Future[memoryview]] = OrderedDict()

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
        data = self._told_bytes(start, stop) or self._bytes(start, stop)
        view[: len(data)] = data
        self._at = start + len(data)
        return len(data)

    def close(self) -> None:
        for future in (*self._told.values(), *self._guessed.values()):
            future.cancel()
        self._told.clear()
        self._guessed.clear()
        super().close()

    def fetch(self, ranges: Iterable[_Piece], ahead: bool) -> None:
        wanted = list(_joined(ranges, self._stamp.size))
        if not wanted or _bytes_of(wanted) > (MOST_AHEAD_BYTES if ahead else MOST_NEXT_BYTES):
            return
        if not ahead:
            self._forget(known for known, future in self._told.items() if known[1] <= wanted[0][0] or _failed(future))
        missing = [piece for whole in wanted for piece in self._untold(*whole)]
        if _bytes_of(self._told) + _bytes_of(missing) > MOST_AHEAD_BYTES + MOST_NEXT_BYTES:
            if ahead:
                return
            self._forget(known for known in self._told if not any(a < known[1] and known[0] < b for a, b in wanted))
        for piece in missing:
            self._told[piece] = fetch(self._url, self._stamp, *piece)

    def _untold(self, start: int, stop: int) -> list[_Piece]:
        """What of a range is not told of yet, in pieces of one request each."""
        pieces = []
        for first, last in [*sorted(self._told), (stop, stop)]:
            edge = min(first, stop)
            pieces += [(at, min(at + PIECE_BYTES, edge)) for at in range(start, edge, PIECE_BYTES)]
            start = max(start, last)
        return pieces

    def _forget(self, pieces: Iterable[_Piece]) -> None:
        for piece in list(pieces):
            self._told.pop(piece).cancel()

    def _told_bytes(self, start: int, stop: int) -> memoryview | None:
        found = next((known for known in self._told if known[0] <= start < known[1]), None)
        return self._told[found].result()[start - found[0] : stop - found[0]] if found else None

    def _bytes(self, start: int, stop: int) -> memoryview:
        """What was guessed as far as it has this, else a range of its own."""
        found = next((known for known in self._guessed if known[0] <= start < known[1]), None)
        goes_on = found is not None or start in self._ends
        if found:
            data = self._guessed[found].result()[start - found[0] : stop - found[0]]
            if stop >= found[1]:
                del self._guessed[found]
        else:
            data = read_range(self._url, self._stamp, start, stop)
        self._ends.pop(start, None)
        end = start + len(data)
        self._ends[end] = None
        if len(self._ends) > _MOST_AHEAD:
            self._ends.popitem(last=False)
        if goes_on and not any(known[0] <= end < known[1] for known in self._guessed):
            self._guess(end, min(end + max(stop - start, _BUFFER_BYTES), self._stamp.size))
        return data

    def _guess(self, start: int, stop: int) -> None:
        if start >= stop or stop - start > MOST_AHEAD_BYTES:
            return
        room = MOST_AHEAD_BYTES - (stop - start)
        while len(self._guessed) >= _MOST_AHEAD or sum(last - first for first, last in self._guessed) > room:
            self._guessed.popitem(last=False)[1].cancel()
        self._guessed[start, stop] = fetch(self._url, self._stamp, start, stop)


def _bytes_of(pieces: Iterable[_Piece]) -> int:
    return sum(stop - start for start, stop in pieces)


def _failed(future: Future[memoryview]) -> bool:
    return future.done() and future.exception() is not None


def _joined(ranges: Iterable[_Piece], size: int) -> Iterable[_Piece]:
    """The ranges in ascending order, within an object of this size; those near to each other as one."""
    begin = end = -1
    for start, stop in sorted(ranges):
        start, stop = max(0, start), min(stop, size)
        if start >= stop:
            continue
        if end >= 0 and start <= end + _GAP_BYTES:
            end = max(end, stop)
            continue
        if end >= 0:
            yield begin, end
        begin, end = start, stop
    if end >= 0:
        yield begin, end
