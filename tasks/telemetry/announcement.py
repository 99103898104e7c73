"""A worker tells, before its children hold their models, what it does and how far it is.

main process --a line for each step--> announcer --at once, and every 5 seconds--> Redis, for producers
             --its status file-------> `python -m tasks.health`

The announcer is a process that is forked before all else: the main process, which is to be forked, has no thread, and
neither large files nor the import of TensorFlow let it do anything beside them. Its pipe ends with the main process,
whatever ends that; it then takes back what it told. Should it be killed, too, the record expires.
"""

from __future__ import annotations

import atexit
import os
import select
import signal
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import msgspec
import redis

from tasks.protocol.preparing import Preparing
from tasks.telemetry import status_file
from tasks.telemetry.status_file import WorkerStatus
from tasks.transport import worker_registry
from tasks.transport.connection import connect
from worker_config.decodable import decodable
from worker_config.errors import CeleriacError
from worker_config.retry_policy import HEARTBEAT_SECONDS

# Of one command; the main process waits for the last one.
_REDIS_SECONDS = 2.0
_END = b"end"


class Announcement:
    """What a worker tells of its preparation, from here on until `end`.

    Args:
        worker: its id.
        broker_url: where it is told.
        models: the names of those that it will hold.
        folder: its run folder.
        status: what its status file says so far.
    """

    def __init__(self, worker: str, broker_url: str, models: Iterable[str], folder: Path, status: WorkerStatus) -> None:
        now = time.time()
        self._preparing = Preparing(dict.fromkeys(models, ""), "reading the models' files", 0, now, now)
        self._folder, self._status = folder, status
        self._main = os.getpid()
        reader, self._writer = os.pipe()
        self._announcer = os.fork()
        if not self._announcer:
            os.close(self._writer)
            _announce(reader, worker, broker_url)
        os.close(reader)
        # Also where the worker cannot start.
        atexit.register(self.end)
        self._send()

    def know(self, digests: Mapping[str, str]) -> None:
        """The models' files have been read."""
        self._preparing = msgspec.structs.replace(self._preparing, models=dict(digests))

    def tell(self, doing: str) -> None:
        """This is what it does now; what a process that was forked from it does is not told."""
        if os.getpid() != self._main:
            return
        self._preparing = msgspec.structs.replace(self._preparing, doing=doing, doing_since=time.time())
        self._send()

    def prepared(self) -> None:
        """One more model is."""
        self._preparing = msgspec.structs.replace(self._preparing, done=self._preparing.done + 1)

    def end(self) -> None:
        """Take it back, as the children are ready or never will be; harmless when done twice, or in another process."""
        if os.getpid() != self._main:
            return
        atexit.unregister(self.end)
        self._write(_END)  # a process that was forked may still have the pipe
        self.leave()
        with suppress(ChildProcessError):
            os.waitpid(self._announcer, 0)
        self._main = 0

    def leave(self) -> None:
        """Let go of the pipe, in a process that was forked and is not to keep the announcer alive."""
        if self._writer >= 0:
            os.close(self._writer)
            self._writer = -1

    def _send(self) -> None:
        self._status = msgspec.structs.replace(self._status, doing=self._preparing.step, doing_since=time.monotonic())
        status_file.write(self._folder, self._status)
        self._write(msgspec.json.encode(self._preparing))

    def _write(self, line: bytes) -> None:
        with suppress(OSError):  # somebody has killed the announcer: producers are told nothing, and wait less
            os.write(self._writer, line + b"\n")


def _announce(reader: int, worker: str, broker_url: str) -> NoReturn:
    try:
        # What ends the main process ends the pipe, and there is something to be done then.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, signal.SIG_IGN)
        with connect(broker_url, retries=0, timeout_seconds=_REDIS_SECONDS) as client:
            for line in _lines(reader):
                # Redis may be away, or refuse the login: the main process waits for it, or says so and ends.
                with suppress(redis.RedisError, OSError, CeleriacError):
                    worker_registry.announce(client, worker, msgspec.json.decode(line, type=decodable(Preparing)))
            worker_registry.withdraw(client, worker)
    finally:
        # Neither exit handlers nor buffers, nor an error's traceback, are its own.
        os._exit(0)


def _lines(reader: int) -> Iterator[bytes]:
    """The last line that was written, at once and as often as the record has to be kept alive."""
    latest, rest = b"", b""
    while True:
        if select.select([reader], [], [], HEARTBEAT_SECONDS)[0]:
            more = os.read(reader, 1 << 16)
            *lines, rest = (rest + more).split(b"\n")
            if not more or _END in lines:
                return
            latest = lines[-1] if lines else latest
        if latest:
            yield latest
