"""Rows of an event loop's iterable for a thread: read ahead by a task, but not far.

async iterable --task of the loop--> a few rows --thread of a job--> chunks
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterable, Iterator
from typing import Any

# Rows read ahead: a thread wakes the loop once for half of them.
AHEAD_ROWS = 256


class LoopRows(Iterator[Any]):
    """Made in the loop that the rows come from; taken by a thread, which waits for them."""

    def __init__(self, rows: AsyncIterable[Any]) -> None:
        self._loop = asyncio.get_running_loop()
        self._ahead: deque[Any] = deque()
        self._changed = threading.Condition()
        self._has_room = asyncio.Event()
        self._has_ended = False
        self._error: Exception | None = None
        self._reading = self._loop.create_task(self._read(rows), name="celeriac-rows")

    def __next__(self) -> Any:
        with self._changed:
            self._changed.wait_for(lambda: self._ahead or self._has_ended)
            if not self._ahead:
                if self._error is not None:
                    raise self._error
                raise StopIteration
            row = self._ahead.popleft()
            makes_room = len(self._ahead) == AHEAD_ROWS // 2 and not self._has_ended
        if makes_room:
            self._loop.call_soon_threadsafe(self._has_room.set)
        return row

    def close(self) -> None:
        """Read no further; from the loop."""
        self._reading.cancel()

    async def _read(self, rows: AsyncIterable[Any]) -> None:
        try:
            async for row in rows:
                with self._changed:
                    self._ahead.append(row)
                    self._changed.notify()
                    is_full = len(self._ahead) >= AHEAD_ROWS
                    if is_full:
                        self._has_room.clear()
                if is_full:
                    await self._has_room.wait()
        except Exception as error:
            self._error = error
        finally:
            with self._changed:
                self._has_ended = True
                self._changed.notify()
