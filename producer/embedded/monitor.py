"""This side of the supervisor: what it has reported, and whether the system that it keeps still runs.

supervisor --a line of JSON for each event--> Monitor --an error, at once--> whoever waits for the system
"""

from __future__ import annotations

import json
import select
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from worker_config.errors import (
    BrokerError,
    CeleriacError,
    ConfigError,
    ExitCode,
    ModelLoadError,
    NoWorkerError,
    WorkerStartError,
)

_WORKER_ERRORS: dict[int, type[CeleriacError]] = {ExitCode.MODEL: ModelLoadError, ExitCode.USAGE: ConfigError}


class Monitor:
    """Of one embedded system; `check` may be asked by any thread."""

    def __init__(self, supervisor: subprocess.Popen[bytes], folder: Path) -> None:
        self._supervisor, self._folder = supervisor, folder
        self._lock = threading.Lock()
        self._ended: dict[str, Any] | None = None
        self._is_closed = False

    def close(self) -> None:
        """Let go of the supervisor, which ends all that it has started, and wait for that."""
        with self._lock:
            self._is_closed = True
            for stream in (self._supervisor.stdin, self._supervisor.stdout):
                if stream:
                    stream.close()
        self._supervisor.wait()

    def events(self, wait_seconds: float) -> Iterator[dict[str, Any]]:
        """What the supervisor has reported since the last look; each pause of so many seconds ends it."""
        reports = cast("IO[bytes]", self._supervisor.stdout)
        while select.select([reports], [], [], wait_seconds)[0]:
            line = reports.readline()
            if not line:
                yield {"ended": "supervisor", "code": self._supervisor.wait()}
                return
            yield json.loads(line)

    def check(self) -> None:
        """Raise NoWorkerError or BrokerError if the worker or Redis has ended, or all of it was closed."""
        with self._lock:
            if self._is_closed:
                raise NoWorkerError("the embedded system was closed; local() starts another one")
            if self._ended is None:
                self._ended = next((event for event in self.events(0.0) if "ended" in event), None)
            if self._ended is None:
                return
        error = BrokerError if self._ended["ended"] == "redis" else NoWorkerError
        raise error(self._how_it_ended(self._ended))

    def start_error(self, event: dict[str, Any]) -> CeleriacError:
        """Why a part of the system did not come up: the worker's own last message, where it left one."""
        if message := self._message(event):
            return _WORKER_ERRORS.get(event["code"], WorkerStartError)(message)
        return WorkerStartError(self._how_it_ended(event))

    def _how_it_ended(self, event: dict[str, Any]) -> str:
        name, code = event["ended"], event["code"]
        if code < 0:
            memory = "; was there enough memory? The kernel's log (dmesg) tells" if code == -signal.SIGKILL else ""
            return f"the embedded {name} was killed by signal {signal.Signals(-code).name}{memory}"
        last = next((line for line in reversed(self._lines(event)) if line.strip()), "it said nothing")
        return f"the embedded {name} ended with exit code {code}: {self._message(event) or last}"

    def _message(self, event: dict[str, Any]) -> str:
        messages = [line.removeprefix("celeriac: ") for line in self._lines(event) if line.startswith("celeriac: ")]
        return messages[-1] if messages else ""

    def _lines(self, event: dict[str, Any]) -> list[str]:
        log = self._folder / f"{event['ended']}.log"
        return log.read_text(errors="replace").splitlines() if log.exists() else []
