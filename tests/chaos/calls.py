"""What workers have noted of the chunks that they ran: which rows, in which process, from when to when."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from tasks.transport.run_folder import born
from tests.chaos.pacing import CALLS


@dataclass
class Call:
    """One run of a chunk, by a process that was born then: in hours another one may have its pid.

    `first` is its first row, `ended` is None while it runs or if its process was killed.
    """

    pid: int
    born: int
    first: int
    rows: int
    begun: float
    ended: float | None = None


class Calls:
    """The file that workers write to, read as it grows."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / CALLS
        self._path.touch()
        self._offset = 0
        self._tail = b""
        self.all: list[Call] = []
        self._open: dict[int, Call] = {}

    def read(self) -> list[Call]:
        """Every call so far, in the order in which they began."""
        with self._path.open("rb") as stream:
            stream.seek(self._offset)
            data = self._tail + stream.read()
            self._offset = stream.tell()
        *lines, self._tail = data.split(b"\n")
        for line in lines:
            what, at, *numbers = line.decode().split()
            call = Call(*map(int, numbers), begun=float(at))
            if what == "begin":
                self._open[call.pid] = call
                self.all.append(call)
            else:
                self._open.pop(call.pid).ended = float(at)
        return self.all

    def restart(self) -> None:
        """Forget what was before this moment."""
        self.read()
        self.all = []

    def open(self) -> list[Call]:
        """Calls that have not ended, of processes that run."""
        self.read()
        return [call for call in self._open.values() if _runs(call)]

    def rows(self) -> int:
        """Rows of all calls, those that were cut short included."""
        return sum(call.rows for call in self.read())

    def repeated(self) -> dict[int, int]:
        """How often each chunk began that began more than once, by its first row."""
        counts = Counter(call.first for call in self.read())
        return {first: count for first, count in counts.items() if count > 1}

    def median_seconds(self) -> float:
        return statistics.median(call.ended - call.begun for call in self.read() if call.ended)


def _runs(call: Call) -> bool:
    try:
        return born(call.pid) == call.born and psutil.Process(call.pid).status() != psutil.STATUS_STOPPED
    except psutil.NoSuchProcess:
        return False


class Idleness:
    """Whether nobody runs a chunk, at many looks in a row: between two chunks children are idle for a moment.

    Of a job beside which others never end: whether so many chunks were run, and it is no further.

    Args:
        how_far: that job is.
    """

    LOOKS, CHUNKS = 15, 300

    def __init__(self, calls: Calls, how_far: Callable[[], int] | None = None) -> None:
        self._calls, self._how_far = calls, how_far
        self._idle, self._far, self._since = 0, -1, 0

    def __call__(self) -> bool:
        began = len(self._calls.all)
        self._idle = 0 if self._calls.open() or len(self._calls.all) > began else self._idle + 1
        if self._how_far and (far := self._how_far()) != self._far:
            self._far, self._since = far, len(self._calls.all)
        others_go_on = self._how_far is not None and len(self._calls.all) >= self._since + self.CHUNKS
        return others_go_on or self._idle >= self.LOOKS
