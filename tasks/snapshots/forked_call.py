"""Runs a function in a forked process of its own, whose memory, threads and end are nobody else's.

    run_forked(function) --fork--> function() --msgpack over a pipe--> its result

So TensorFlow runs although this process, which is to be forked again, must never start it. The other process has a
folder for temporary files of its own: it runs no exit handlers, by which TensorFlow would remove those that it made.
"""

from __future__ import annotations

import ctypes
import gc
import os
import select
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import msgspec

from tasks.models.error_text import telling_line
from worker_config.decodable import decodable

T = TypeVar("T")
_PR_SET_PDEATHSIG = 1
_POLL_SECONDS = 0.05
# Where it is not woken by what a process writes, or by its end.
_LOOK_SECONDS = 0.2


class ForkedError(Exception):
    """What the function raised, as a text of one line, or how its process ended."""


def run_forked(function: Callable[[], T], form: Any, log: Path, timeout_seconds: float | None = None) -> T:
    """The function's result, which msgpack carries back as `form`; what it prints goes to the file `log`.

    Raises:
        ForkedError: it raised, or its process ended without a result, or took longer than it may and was killed.
    """
    result: T = Forked(function, form, log).result(timeout_seconds)
    return result


@dataclass(frozen=True)
class Work:
    """Something to be done in a process of its own, which takes about so much memory."""

    name: str
    function: Callable[[], None]
    bytes: int


def run_side_by_side(
    works: Iterable[Work], at_once: int, room_bytes: int, tell: Callable[[Sequence[str]], None]
) -> set[str]:
    """Do these, the largest first, as many at once as may be and as there is memory for, at least one.

    What they print on stderr is seen; `tell` is told the names of those that run, whenever there are others. Gives the
    names of those that failed, for whatever reason; after the first one no other is begun.
    """
    waiting = sorted(works, key=lambda work: work.bytes, reverse=True)
    running: dict[Work, Forked] = {}
    failed: set[str] = set()
    told: list[str] = []
    stderr = os.dup(2)
    try:
        while running or (waiting and not failed):
            for work in [] if failed else list(waiting):
                fits = sum(one.bytes for one in running) + work.bytes <= room_bytes
                if not running or (fits and len(running) < at_once):
                    waiting.remove(work)
                    running[work] = Forked(partial(with_stderr, stderr, work.function), None, Path(os.devnull))
            if told != (told := [work.name for work in running]):
                tell(told)
            time.sleep(_POLL_SECONDS)
            for work in [work for work, forked in running.items() if forked.is_done()]:
                try:
                    running.pop(work).result()
                except ForkedError:
                    failed.add(work.name)
    finally:
        os.close(stderr)
    return failed


def with_stderr(stderr: int, function: Callable[[], T]) -> T:
    """What the function prints on stderr, seen by whoever reads that of this descriptor."""
    os.dup2(stderr, 2)
    return function()


class Forked:
    """A function that runs in a process of its own meanwhile; see `run_forked`."""

    def __init__(self, function: Callable[[], Any], form: Any, log: Path) -> None:
        self._form = form
        self._received = b""
        self._temporary = tempfile.TemporaryDirectory(prefix="celeriac-", ignore_cleanup_errors=True)
        self._reader, writer = os.pipe()
        self._status: int | None = None
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        try:
            self._pid = os.fork()
        except OSError:
            os.close(self._reader)
            os.close(writer)
            self._temporary.cleanup()
            raise
        if not self._pid:
            os.close(self._reader)
            _run(function, writer, log, self._temporary.name, parent)
        os.close(writer)

    def is_done(self) -> bool:
        """Whether `result` would return at once; to be asked now and then, as it empties the pipe.

        It is where the process has ended, too: another one that it has left behind may hold the pipe open.
        """
        if self._status is None:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            self._status = status if pid else None
        while select.select([self._reader], [], [], 0)[0]:
            more = os.read(self._reader, 1 << 20)
            if not more:
                return True
            self._received += more
        return self._status is not None

    def result(self, timeout_seconds: float | None = None) -> Any:
        """Wait for the process, and return what the function did; raises ForkedError as `run_forked`."""
        began, late = time.monotonic(), False
        while not self.is_done():
            waited = time.monotonic() - began
            if timeout_seconds is not None and waited > timeout_seconds and not (self._received or late):
                late = True
                os.kill(self._pid, signal.SIGKILL)
            select.select([self._reader], [], [], _LOOK_SECONDS)
        os.close(self._reader)
        status = os.waitpid(self._pid, 0)[1] if self._status is None else self._status
        self._temporary.cleanup()
        if late and not self._received:
            raise ForkedError(f"it was not done after {timeout_seconds:.0f} seconds")
        if not self._received:
            code = os.waitstatus_to_exitcode(status)
            how = f"was killed by signal {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            raise ForkedError(f"the process {how}; was there enough memory?")
        if self._received[:1] == b"e":
            raise ForkedError(self._received[1:].decode())
        return msgspec.msgpack.decode(self._received[1:], type=decodable(self._form))


def _run(function: Callable[[], Any], writer: int, log: Path, temporary: str, parent: int) -> NoReturn:
    code = 1
    try:
        tempfile.tempdir = os.environ["TMPDIR"] = temporary
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it has died already, and what it had locked would stay so
            os._exit(code)
        # Celery's handlers are for the process that it made them for.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, signal.SIG_DFL)
        printed = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(printed, 1)
        os.dup2(printed, 2)
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
        # A collection would look at all that TensorFlow's import has made, and copy its pages.
        gc.freeze()
        try:
            reply = b"r" + msgspec.msgpack.encode(function())
        except BaseException as error:
            reply = b"e" + f"{type(error).__name__}: {telling_line(error)}".removesuffix(": ").encode()
        with os.fdopen(writer, "wb") as pipe:
            pipe.write(reply)
        code = 0
    finally:
        # Neither exit handlers nor buffers of the process that it was forked from.
        os._exit(code)
