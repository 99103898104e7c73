"""What workers do before the model in these tests: note the call, and take as long as the folder's `pace` says.

It runs in a worker's children, in the folder where the worker was started.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np

from tasks.transport.run_folder import born
from tests.waiting import take

CALLS = "calls"
PACE = "pace"
# In the environment of a worker on a slow host: how many times longer its chunks take.
SLOWER = "SLOWER"
# The first value of a row tells which row it is: its number, of so many, as a part of 1, exact in float32.
NUMBERS = 2**20
WIDER = 6


def paced(rows: np.ndarray | dict[str, np.ndarray]) -> np.ndarray:
    """The rows as they are, or their one column, after a while; both ends of it are noted."""
    if isinstance(rows, dict):
        (rows,) = rows.values()
    first = int(rows[0, 0] * NUMBERS)
    _note("begin", first, len(rows))
    take(float(Path(PACE).read_text()) * float(os.environ.get(SLOWER, "1")))
    _note("end", first, len(rows))
    return rows


def _note(what: str, first: int, rows: int) -> None:
    """One line in one write at the end of the file: those of several processes do not mix."""
    pid = os.getpid()
    line = f"{what} {time.monotonic()} {pid} {born(pid)} {first} {rows}\n"
    descriptor = os.open(CALLS, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def widened(scores: np.ndarray) -> np.ndarray:
    """Outputs as large as the rows are, so that those of a large chunk do not ride in its answer."""
    return np.tile(scores, WIDER)
