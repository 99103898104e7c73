"""What changes, told to everybody who looks, however many these are.

read() in a thread, once a tick --> values by key --what is other than before--> one event for all viewers

Nothing is read while nobody looks. A viewer that is new, or slow, gets the whole instead of what changed.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec

from worker_config.errors import CeleriacError

logger: logging.Logger = logging.getLogger(__name__)

TICK_SECONDS = 1.0
# What reading takes of a core is held to a part in so many, however much there is to read.
PAUSE_FACTOR = 25.0
# So that either side notices when the other is gone.
SILENCE_SECONDS = 15.0
PROBLEM = "problem"


class Feed:
    """One thing to look at. `read` gives all of it, as plain values by key; it runs in threads, one at a time."""

    def __init__(self, read: Callable[[], dict[str, Any]], tick_seconds: float = TICK_SECONDS) -> None:
        self._read, self._tick_seconds = read, tick_seconds
        self._values: dict[str, Any] = {}
        self._version, self._event = 0, b""
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._viewers = 0
        # A thread cannot be cancelled, and may still read for viewers that have gone.
        self._reads = threading.Lock()

    async def events(self) -> AsyncIterator[bytes]:
        """Server-sent events, until the viewer goes or this is closed: first the whole, then what changes."""
        self._viewers += 1
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        seen = 0
        try:
            while self._task is not None:
                if seen == self._version:
                    try:
                        await asyncio.wait_for(self._changed.wait(), SILENCE_SECONDS)
                    except TimeoutError:
                        yield b": still here\n\n"
                    continue
                whole = seen == 0 or seen != self._version - 1
                seen = self._version
                yield _event("whole", self._values) if whole else self._event
        finally:
            self._viewers -= 1
            if self._viewers == 0:
                self.close()

    @property
    def is_on(self) -> bool:
        """Whether somebody looks."""
        return self._viewers > 0

    def close(self) -> None:
        """End what is told to all viewers."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._values, self._version = {}, 0
        self._changed.set()

    async def _run(self) -> None:
        while True:
            values, pause_seconds = await asyncio.to_thread(self._look)
            self._tell(values)
            await asyncio.sleep(pause_seconds)

    def _look(self) -> tuple[dict[str, Any], float]:
        before = time.thread_time()
        try:
            with self._reads:
                values = self._read()
        except CeleriacError as error:
            values = self._values | {PROBLEM: str(error)}
        except Exception as error:
            logger.exception("what is to be shown cannot be made")
            values = self._values | {PROBLEM: f"a bug in Celeriac: {type(error).__name__}: {error}"}
        return values, max(self._tick_seconds, PAUSE_FACTOR * (time.thread_time() - before))

    def _tell(self, values: dict[str, Any]) -> None:
        new = {key: value for key, value in values.items() if key not in self._values or self._values[key] != value}
        gone = [key for key in self._values if key not in values]
        if self._version and not new and not gone:
            return
        self._event = _event("change", new, gone)
        self._values, self._version = values, self._version + 1
        self._changed.set()
        self._changed = asyncio.Event()


def _event(kind: str, values: dict[str, Any], gone: list[str] | None = None) -> bytes:
    data = msgspec.json.encode({"now": time.time(), "values": values, "gone": gone or []})
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), data)
