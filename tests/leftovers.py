"""Nothing of a test run stays: its files are in a folder of its own, and who looks at the end finds no others.

TMPDIR, XDG_CACHE_HOME --inherited by all that tests start--> one folder, removed at the end
new in the temporary folder or in memory, or still running --found at the end--> the run fails
"""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil

MEMORY = Path("/dev/shm")  # noqa: S108 - where the embedded system has its spool folder
# What our processes would leave: folders of our own, of multiprocessing and billiard, and code that TensorFlow wrote.
PREFIXES = ("celeriac-", "pymp-", "__autograph_generated_file")
# Of a process that is being ended.
GONE_SECONDS = 10.0
# To look at what a run has written; the folder is named at its end.
KEEP = "KEEP_FILES"


class RunFolder:
    """The folder of one run, and what was beside it when it began."""

    def __init__(self) -> None:
        self._outside = Path(tempfile.gettempdir())
        self._before = self._beside()
        # Short: a socket's path has at most 107 bytes.
        self.path = Path(tempfile.mkdtemp(prefix="ct-"))
        os.environ["TMPDIR"] = str(self.path)
        os.environ["XDG_CACHE_HOME"] = str(self.path / "cache")
        (self.path / "cache").mkdir()
        tempfile.tempdir = None
        if not os.environ.get(KEEP):
            atexit.register(shutil.rmtree, self.path, ignore_errors=True)  # where no session comes to its end

    def end(self) -> list[str]:
        """Say what is left but should not be, after some time to go; then remove the folder."""
        deadline = time.monotonic() + GONE_SECONDS
        while (left := self._left()) and time.monotonic() < deadline:
            time.sleep(0.1)
        self._remove()
        return left

    def _remove(self) -> None:
        if os.environ.get(KEEP):
            print(f"{KEEP} is set: {self.path} stays", file=sys.stderr)
        else:
            shutil.rmtree(self.path, ignore_errors=True)

    def _left(self) -> list[str]:
        new = self._beside() - self._before
        return self._running() + sorted(str(path) for path in new if not _is_mentioned(path))

    def _beside(self) -> set[Path]:
        folders = [folder for folder in (self._outside, MEMORY) if folder.is_dir()]
        return {path for folder in folders for path in folder.iterdir() if path.name.startswith(PREFIXES)}

    def _running(self) -> list[str]:
        """Processes that have our folder in their environment, or in their command as Redis has it."""
        folder, own = str(self.path), os.getpid()
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                words = process.cmdline()
                if process.pid == own or process.status() == psutil.STATUS_ZOMBIE:
                    continue
                if folder in " ".join(words) or process.environ().get("TMPDIR", "").startswith(folder):
                    found.append(f"process {process.pid}: {' '.join(words)[:200]}")
        return found


def _is_mentioned(path: Path) -> bool:
    """Whether a command line names it, as that of an embedded system's supervisor does."""
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if any(str(path) in word for word in process.cmdline()):
                return True
    return False
