"""Carries word from children to their main process: which are ready, and why one could not load.

child --one JSON line in a pipe--> Reports.read() in the main process
"""

from __future__ import annotations

import json
import os
import select

from worker_config.errors import ModelLoadError, WorkerStartError
from worker_config.retry_policy import MAX_SILENT_DEATHS


def report(write_fd: int, **what: int | str) -> None:
    """Tell the main process `ready=SLOT` or `failed=TEXT`."""
    # A pipe takes up to PIPE_BUF (4096) bytes in one piece, so lines of several children do not mix.
    text = json.dumps({key: value[:2000] if isinstance(value, str) else value for key, value in what.items()})
    os.write(write_fd, text.encode() + b"\n")


class ChildPipe:
    """The main process's end of the pipe; made before the first fork.

    Attributes:
        forks: children forked so far.
        ready: children that held their models so far.
        ready_slots: their slots.
    """

    def __init__(self) -> None:
        self._read_fd, self.write_fd = os.pipe()
        os.set_blocking(self._read_fd, False)
        self._unread = b""
        self.forks = 0
        self.ready = 0
        self.ready_slots: set[int] = set()

    def read(self, wait_seconds: float = 0.0) -> None:
        """Take what children have told, waiting up to `wait_seconds` for something.

        Raises:
            ModelLoadError: a child could not load its models; the text is the child's.
        """
        if not select.select([self._read_fd], [], [], wait_seconds)[0]:
            return
        self._unread += os.read(self._read_fd, 1 << 20)
        *lines, self._unread = self._unread.split(b"\n")
        for message in map(json.loads, lines):
            if "failed" in message:
                raise ModelLoadError(message["failed"])
            self.ready += 1
            self.ready_slots.add(message["ready"])

    def check_silent_deaths(self, children: int) -> None:
        """Raise WorkerStartError if children keep dying before they are ready; `children` is how many there are."""
        deaths = self.forks - self.ready - children
        if deaths >= MAX_SILENT_DEATHS:
            raise WorkerStartError(
                f"{deaths} children died, without a word, while they loaded their models; "
                "was there enough memory? The kernel's log (dmesg) tells"
            )
