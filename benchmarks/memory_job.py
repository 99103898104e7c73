"""A program of its own, the process whose memory `memory` measures: a producer with one job.

Its argument is JSON: `models`, a manifest; `data`, an `.npy` file or null for a generator; `rows`; `store` or null.
It prints a line of JSON when all is up, runs the job when it gets a line on stdin, checks each row, and prints another.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.harness import check_equal
from producer import Client, local
from tasks.transport.connection import connect

Rows = npt.NDArray[np.float32]
_BLOCK_ROWS = 1024


def rows_between(start: int, stop: int, width: int) -> Rows:
    """Rows that all differ: random, but for their number in front; float32 counts up to 16 million."""
    rows = np.resize(_block(width), (stop - start, width)) if start % _BLOCK_ROWS == 0 else _rolled(start, stop, width)
    rows[:, 0] = np.arange(start, stop)
    return rows


def _rolled(start: int, stop: int, width: int) -> Rows:
    return np.take(_block(width), np.arange(start, stop), axis=0, mode="wrap")


@cache
def _block(width: int) -> Rows:
    return np.random.default_rng(width).random((_BLOCK_ROWS, width), np.float32)


def generate(rows: int, width: int) -> Iterator[Rows]:
    """Rows one by one; each block of them is forgotten before the next is made."""
    for start in range(0, rows, _BLOCK_ROWS):
        yield from rows_between(start, min(start + _BLOCK_ROWS, rows), width)


def write_file(path: Path, rows: int, width: int) -> None:
    """The same rows as an `.npy` file, block by block."""
    array = np.lib.format.open_memmap(path, "w+", np.float32, (rows, width))
    for start in range(0, rows, _BLOCK_ROWS):
        stop = min(start + _BLOCK_ROWS, rows)
        array[start:stop] = rows_between(start, stop, width)
    array.flush()


def main(told: dict[str, Any]) -> None:
    """Run the job and say how it went."""
    width = 1024 if told["data"] else 16
    with local(models=told["models"], workers=2) as client:
        rows_between(0, _BLOCK_ROWS, width)  # what the check needs is not the job's
        _tell(up=True)
        sys.stdin.readline()
        started = time.monotonic()
        done = _run(client, told, width)
        seconds = time.monotonic() - started
        with connect(client.broker_url) as server:
            redis_peak = server.info("memory")["used_memory_peak"]
        _tell(rows=done, seconds=seconds, redis_peak_bytes=redis_peak)


def _run(client: Client, told: dict[str, Any], width: int) -> int:
    model = "identity" if told["data"] else "small_identity"
    data = told["data"] or generate(told["rows"], width)
    job = client.submit(model, data, store=told["store"])
    done = 0
    for part in job.parts():
        check_equal(part.start, done)
        check_equal(part.outputs, rows_between(part.start, part.stop, width))
        done = part.stop
    check_equal(done, told["rows"])
    return done


def _tell(**event: Any) -> None:
    print(json.dumps(event), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
