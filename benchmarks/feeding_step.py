"""How long the preprocessing of `benchmarks.peers.systems.work` is: ten milliseconds of Python or so for each row.

That stands in an environment variable, so that all processes of all arms do the same work.
"""

from __future__ import annotations

import os
import time

import numpy as np
import numpy.typing as npt

from benchmarks.peers.systems.work import LOOPS, prepare_row

COLUMNS = 64
ROW_SECONDS = 0.01


def calibrate() -> None:
    """Choose the length of the loop, for this process and those that it starts."""
    row = np.full(COLUMNS, 0.5, np.float32)
    os.environ[LOOPS] = tries = "100000"
    seconds = min(_timed(row) for _ in range(20))
    os.environ[LOOPS] = str(round(int(tries) * ROW_SECONDS / seconds))


def _timed(row: npt.NDArray[np.float32]) -> float:
    started = time.perf_counter()
    prepare_row(row)
    return time.perf_counter() - started
