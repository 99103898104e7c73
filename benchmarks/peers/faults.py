"""What happens when a row raises, when a row kills the process that has it, and when a process is killed from outside?

The model is a Python function that waits two milliseconds for each row. The system has to do what its documentation
offers for such cases; what counts is what comes of it: does the job end, how many of the good rows are in the output
and right, is the bad row named?
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

from benchmarks.peers.environments import NotInstalledError
from benchmarks.peers.measuring import MOST_SECONDS
from benchmarks.peers.outputs import right_rows
from benchmarks.peers.programs import Program, ProgramEndedError, ProgramHangsError, System
from benchmarks.peers.systems.work import DEADLY
from benchmarks.peers.works import Stage, Work, write_parts
from benchmarks.stage import folder

FAULTS = {
    "raises": "a row raises",
    "kills": "a row kills its process",
    "worker_killed": "a process is killed",
}
BATCH_ROWS, ROWS = 20, (2_000, 400)
_WORK = Work("faults", ROWS, BATCH_ROWS, (16,), (1,))
HANGS_SECONDS = 60.0


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Attributes:
        ended: how: "ends", "error: ...", "dies: ...", "hangs: ...", or "cannot: ...".
        good, right: rows that are not bad, and those of them that are in the output, right.
        lost: rows that the system says it has lost.
        named: whether it says which row was bad.
    """

    ended: str
    good: int = 0
    right: int = 0
    lost: int = 0
    named: bool = False

    def __str__(self) -> str:
        if self.ended.startswith("cannot"):
            return self.ended
        named = "; names the row" if self.named else ""
        return f"{self.ended}; {self.right:,} of {self.good:,} good rows{named}"


@contextmanager
def set_up(fault: str, quick: bool) -> Iterator[tuple[Stage, int | None]]:
    """Rows, one of which is bad, if a row is to be."""
    with folder(in_memory=False) as place:
        rows = np.random.default_rng(3).random((ROWS[quick], 16), np.float32)
        bad = None if fault == "worker_killed" else len(rows) * 3 // 10
        if bad is not None:
            rows[bad, 0] = np.nan if fault == "raises" else DEADLY
        np.save(place / "rows.npy", rows)
        write_parts(place, rows)
        environ = {"CELERIAC_CACHE": str(place / "cache")}
        yield Stage("faulty", _WORK, place, len(rows), rows.sum(axis=1, keepdims=True), quick, environ), bad


def outcome(system: System, fault: str, stage: Stage, bad: int | None, processes: int, log: Path) -> Outcome:
    """Have the system do it, and look at what there is."""
    output = stage.fresh_output()
    calls = stage.place / f"calls-{output.name}"
    calls.mkdir()
    answer: dict[str, Any] = {}
    watch = _watching(calls, stage.rows // BATCH_ROWS, fault == "worker_killed", HANGS_SECONDS)
    try:
        with Program(system, processes, log, stage.environ) as program:
            program.ask({}, MOST_SECONDS)
            answer = program.ask(stage.order(output, fault=fault, calls=str(calls)), 4 * MOST_SECONDS, watch)
        ended = "ends" if "done" in answer else f"error: {answer['error']}" if "error" in answer else ""
    except ProgramHangsError as error:
        ended = f"hangs: {error}"
    except ProgramEndedError as error:
        ended = f"dies: {error}"
    except NotInstalledError as error:
        return Outcome(f"cannot: {error}")
    if not ended:
        return Outcome(f"cannot: {answer['cannot']}")
    right = right_rows(output, stage.expected)
    good = stage.rows - (bad is not None)
    return Outcome(
        ended,
        good,
        int((right != bad).sum()) if bad is not None else len(right),
        answer.get("lost", 0),
        bad is not None and answer.get("named") == [bad],
    )


def _watching(calls: Path, whole: int, kill: bool, hangs_seconds: float) -> Callable[[], None]:
    """Looks whether the model is still called; where it should, kills a process that calls it, in the middle."""
    done, since, killed = -1, monotonic(), not kill

    def watch() -> None:
        nonlocal done, since, killed
        counts = {int(path.name): path.stat().st_size for path in calls.iterdir()}
        if sum(counts.values()) != done:
            done, since = sum(counts.values()), monotonic()
        if monotonic() - since > hangs_seconds:
            raise ProgramHangsError(f"no call of the model for {hangs_seconds:.0f} s")
        if not killed and done >= whole // 3:
            with suppress(ProcessLookupError):
                os.kill(max(counts, key=counts.__getitem__), signal.SIGKILL)
            killed = True

    return watch
