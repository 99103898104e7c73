"""Measures one system at one work: cold, from the start of its program to the last output written, then warm.

Cold:  memory (proportional, PSS) of all its processes together, with files in memory, and what they wrote to disks, are
       read every 0.25 s, or less often where that takes long
Warm:  time, and processor seconds of all its processes; nothing is read meanwhile

Everything below this process belongs to the system: processes whose parents have ended become its children.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self

import psutil

from benchmarks.harness import Arm, Trial, WrongOutputError, measure, touch_memory
from benchmarks.meter import Memory
from benchmarks.peers.environments import NotInstalledError
from benchmarks.peers.programs import Program, ProgramEndedError, ProgramHangsError, System
from benchmarks.peers.works import Stage

MOST_SECONDS = 300.0
_EVERY_SECONDS = 0.25
# Reading is slow where there is much memory, and takes processors away from what is measured.
_MOST_SHARE = 0.04
_BLOCK_BYTES = 512  # of `st_blocks`, whatever the file system's
_MEMORY_FOLDER = Path("/dev/shm")  # noqa: S108 - only looked at
_MOST_RUNS = 3
_PR_SET_CHILD_SUBREAPER = 36


@dataclass
class Visit:
    """What was measured of a system, or the trouble that there was.

    Attributes:
        trouble: why there are no figures, in a line.
        cold_seconds: from the start of the program to its first answer, output written.
        warm: the runs after it.
        pss, own: bytes of all processes together, and of new files in memory that none of them need have mapped, the
            most that was seen; `own` without pages of files on disks.
        written: bytes that went to disks, by the kernel's count.
        lost: rows that the system says it has lost.
        latencies: seconds of each request of the last run.
    """

    trouble: str = ""
    cold_seconds: float = 0.0
    warm: list[Trial] = field(default_factory=list)
    pss: int = 0
    own: int = 0
    written: int = 0
    lost: int = 0
    latencies: list[float] = field(default_factory=list)


class CannotError(Exception):
    """A system has no way to do a work, or has failed at it."""


def visit(
    system: System,
    stage: Stage,
    processes: int,
    log: Path,
    warm_seconds: float,
    most_seconds: float = MOST_SECONDS,
) -> Visit:
    """Start the system, give it the work once, then again until all runs together have taken so long, three at most.

    Each answer may take `most_seconds`. Every output is checked, outside the clock.
    """
    found = Visit()
    if not stage.quick:
        touch_memory()
    try:
        output = stage.fresh_output()
        with Usage() as usage:
            began = time.monotonic()
            program = Program(system, processes, log, stage.environ)
            with program:
                _answer(program.ask({}, most_seconds))
                _run(program, stage, found, output, most_seconds)
                found.cold_seconds = time.monotonic() - began
                found.pss, found.own, found.written = usage.stop()
                stage.check(output, system.variant)
                check = partial(stage.check, variant=system.variant)
                while len(found.warm) < _MOST_RUNS and sum(one.seconds for one in found.warm) < warm_seconds:
                    output = stage.fresh_output()  # and the one before is removed, by no system's time
                    arm = Arm(system.title, partial(_run, program, stage, found, output), check)
                    found.warm.append(measure(arm, touch=not stage.quick))
    except (NotInstalledError, ProgramEndedError, ProgramHangsError, CannotError) as error:
        found.trouble = str(error)
    except WrongOutputError as error:
        found.trouble = f"wrong output: {error}"
    return found


def _run(program: Program, stage: Stage, found: Visit, output: Path, most_seconds: float = MOST_SECONDS) -> Path:
    answer = _answer(program.ask(stage.order(output), most_seconds))
    found.lost, found.latencies = answer.get("lost", 0), answer.get("latencies", [])
    return output


def _answer(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    for word in ("cannot", "error"):
        if word in answer:
            raise CannotError(f"{'cannot: ' if word == 'cannot' else ''}{answer[word]}")
    return answer


class Usage:
    """Samples memory and writes of all processes below this one, from now until `stop`."""

    def __init__(self) -> None:
        self._pss = self._own = 0
        self._written: dict[tuple[int, float], int] = {}
        self._before = _files_in_memory()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> tuple[int, int, int]:
        """End, and tell the most memory seen (PSS, own), and the bytes written to disks."""
        if not self._stopped.is_set():
            self._stopped.set()
            self._thread.join()
            self._look()
        return self._pss, self._own, sum(self._written.values())

    def _sample(self) -> None:
        took = 0.0
        while not self._stopped.wait(max(_EVERY_SECONDS, took / _MOST_SHARE)):
            began = time.monotonic()
            self._look()
            took = time.monotonic() - began

    def _look(self) -> None:
        files = _files_in_memory()
        pss = own = sum(size for name, size in files.items() if name not in self._before)
        for process in psutil.Process().children(recursive=True):
            # It may end at any time, and has no memory any more between its end and its parent's wait.
            with suppress(psutil.Error, OSError, KeyError):
                self._written[process.pid, process.create_time()] = _written_by(process.pid)
                memory = Memory.of(process.pid)
                pss, own = pss + memory.pss, own + memory.own
        self._pss, self._own = max(self._pss, pss), max(self._own, own)


def _files_in_memory() -> dict[Path, int]:
    """Bytes of files below /dev/shm that have a name: Ray's have none any more, and are mapped by its processes."""
    sizes: dict[Path, int] = {}
    with suppress(OSError):  # folders go, too
        for path in _MEMORY_FOLDER.rglob("*"):
            with suppress(OSError):
                sizes[path] = _BLOCK_BYTES * path.lstat().st_blocks
    return sizes


def _written_by(pid: int) -> int:
    fields = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    return int(fields["write_bytes"])


def adopt_orphans() -> None:
    """Become the parent of processes below this one whose own parent ends, so that none is lost sight of."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
