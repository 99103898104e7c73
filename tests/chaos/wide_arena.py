"""An arena for the wider schedules: all but the tests reach Redis by a link, payloads have a disk of their own, and
each worker has a wall clock of its own.
"""

from __future__ import annotations

import os
import struct
import subprocess
from contextlib import suppress
from pathlib import Path

import psutil

from tests.chaos.arena import Arena
from tests.link import Link
from tests.systems import REPOSITORY, Worker
from tests.waiting import has_status, wait_until

DISK_BYTES = 256 * 2**20
_UMOUNT = ("umount", "-l")
_CLOCKS = REPOSITORY / "tests" / "stepped_clock"


class WideArena(Arena):
    """Its producers are given `url`, which leads to Redis by the link.

    Attributes:
        has_disk: whether payloads are on a disk that can be filled; this process may not mount one everywhere.
    """

    def __init__(self, folder: Path, model: Path, *, job_ttl_seconds: int = 86_400) -> None:
        super().__init__(folder, model, job_ttl_seconds=job_ttl_seconds)
        self.link = Link(self.system.redis.socket).start()
        self._clocks: dict[int, Path] = {}  # by their pids
        self._environ |= {"CELERIAC_BROKER_URL": self.link.url, "PYTHONPATH": f"{_CLOCKS}:{REPOSITORY}"}
        mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "none", str(self.spool)]
        self.has_disk = os.geteuid() == 0 and subprocess.run(mount, capture_output=True, check=False).returncode == 0

    @property
    def url(self) -> str:
        return self.link.url

    def start_worker(self) -> Worker:
        clock = self.folder / f"clock{len(self._clocks)}"
        clock.write_bytes(bytes(16))
        self._environ["STEPPED_CLOCK"] = str(clock)
        worker = super().start_worker()
        self._clocks[worker.pid] = clock
        return worker

    def step_clock(self, worker: Worker, seconds: float) -> None:
        """Let a worker's wall clock be so far from the right one; it has looked then, unless it stands still."""
        clock = self._clocks[worker.pid]
        with clock.open("r+b") as file:
            file.write(struct.pack("d", seconds))

        def seen() -> bool:
            if worker.process.poll() is not None or has_status(worker.pid, psutil.STATUS_STOPPED):
                return True
            return bool(struct.unpack("dd", clock.read_bytes())[1] == seconds)

        wait_until(seen, "the worker has looked at its clock")

    def fill_disk(self) -> None:
        """Leave no room for payloads."""
        with self._ballast.open("wb", buffering=0) as file:

            def filled() -> bool:
                with suppress(OSError):  # others may be faster
                    file.write(bytes(2**20))  # as much of it as there is room for
                return self._is_full()

            wait_until(filled, "there is no room", every_seconds=0)

    def empty_disk(self) -> None:
        """Give the room back."""
        self._ballast.unlink()
        assert not self._is_full()

    @property
    def _ballast(self) -> Path:
        return self.spool / "ballast"

    def _is_full(self) -> bool:
        free = os.statvfs(self.spool)
        return free.f_bavail == 0

    def stop(self, *, check: bool = True) -> None:
        try:
            super().stop(check=check)
        finally:
            self.link.stop()
            if self.has_disk:
                subprocess.run([*_UMOUNT, str(self.spool)], check=True)
