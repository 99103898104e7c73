"""Ranges that a slot will probably ask for next --fetched while its model computes--> there when it asks.

Slots of a job take its chunks in turn, so that a slot's next chunk is mostly as far from its last one as that was from
the one before. Where the last two steps were the same, the range after the next such step is fetched by a thread. One
that nobody asks for is dropped with the next range: memory for one chunk more, and a request.
"""

from __future__ import annotations

from concurrent.futures import Future

from tasks.storage.background import fetch
from tasks.storage.objects import ObjectStamp, read_range
from worker_config.object_urls import ObjectUrl

# Of larger ranges the transfer takes longer than what a request waits for.
_MOST_BYTES = 64 * 2**20


class ReadAhead:
    """What reads ranges for one slot; used by one thread."""

    def __init__(self) -> None:
        self._of: tuple[ObjectUrl, ObjectStamp] | None = None
        self._start = self._step = 0
        self._range = (0, 0)
        self._fetched: Future[memoryview] | None = None

    def read(self, url: ObjectUrl, stamp: ObjectStamp, start: int, stop: int) -> memoryview:
        """The bytes `[start, stop)`; see `read_range`.

        Raises:
            ObjectError: as `read_range`.
        """
        fetched, self._fetched = self._fetched, None
        if self._of != (url, stamp):
            self._of, self._start, self._step, fetched = (url, stamp), start, 0, None
        step, before = start - self._start, self._step
        self._start, self._step = start, step
        if fetched and self._range == (start, stop) and fetched.exception() is None:
            data = fetched.result()
        else:  # what could not be fetched is read now, and whoever asks is told
            data = read_range(url, stamp, start, stop)
        if step == before > 0 and stop - start <= _MOST_BYTES and start + step < stamp.size:
            self._range = start + step, min(stop + step, stamp.size)
            self._fetched = fetch(url, stamp, *self._range)
        return data
