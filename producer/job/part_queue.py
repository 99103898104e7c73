"""Hands parts, and in the end an error if there was one, from a job's thread to its caller.

What the caller has not taken is bounded: the job sends no more chunks while it is over the bound.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable

from producer.rows.part import Part, flatten
from producer.scheduling.job_options import MAX_WAITING_BYTES
from tasks.datasets.columns import row_bytes


class PartQueue:
    """A bounded queue of parts between two threads.

    Attributes:
        wake: is set whenever there is more room.
        on_restart: called by whoever takes parts, who throws away what was taken, and then gets all parts once more;
            None where that cannot be.
    """

    def __init__(self, max_bytes: int = MAX_WAITING_BYTES) -> None:
        self.wake: threading.Event = threading.Event()
        self.on_restart: Callable[[], None] | None = None
        self._max_bytes = max_bytes
        self._parts: deque[tuple[Part, int]] = deque()
        self._bytes = 0
        self._closed = self._is_taken = self._is_void = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()

    def has_room(self, max_parts: float = math.inf) -> bool:
        """Whether the caller keeps up."""
        return self._bytes < self._max_bytes and len(self._parts) < max_parts

    @property
    def has_part(self) -> bool:
        """Whether `take` would not wait."""
        return bool(self._parts or self._closed or self._is_void)

    def give(self, part: Part) -> None:
        """Hand over one part; never waits."""
        size = sum(round(len(array) * row_bytes(array)) for array in flatten(part).values())
        with self._changed:
            self._parts.append((part, size))
            self._bytes += size
            self._changed.notify_all()

    def void(self) -> bool:
        """Drop what waits; whether nobody holds parts that were taken before, but who can throw them away."""
        with self._changed:
            self._parts.clear()
            self._bytes = 0
            return self.on_restart is not None or not self._is_taken

    def restart(self) -> None:
        """All parts come once more."""
        with self._changed:
            self._is_void = True
            self._changed.notify_all()

    def close(self, error: BaseException | None = None) -> None:
        """Say that no more parts come, and why, if it was not the end."""
        with self._changed:
            # Its frames have the job, and so this queue, as has what is called at a restart: none will come any more.
            self._closed, self._error = True, error and error.with_traceback(None)
            if not self._is_void:
                self.on_restart = None
            self._changed.notify_all()

    def take(self) -> Part | None:
        """Wait for the next part; None after the last one.

        Raises:
            BaseException: such as `close` was given, after the parts that came before it.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._parts or self._closed or self._is_void)
            is_void, self._is_void = self._is_void, False
            if not is_void:
                if not self._parts:
                    self.on_restart = None  # it knows the job, and so this queue: a cycle
                    if self._error is not None:
                        raise _twin(self._error) from self._error.__cause__
                    return None
                part, size = self._parts.popleft()
                self._bytes -= size
                self._is_taken = True
        if is_void:
            if self.on_restart is not None:
                self.on_restart()
            return self.take()
        self.wake.set()
        return part


def _twin(error: BaseException) -> BaseException:
    """The same to raise once more: one that is kept would keep the frames that it goes through, and they the job."""
    twin = type(error).__new__(type(error), *error.args)
    vars(twin).update(vars(error))
    return twin
