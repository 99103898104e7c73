"""Lets the wall clock of a process of Python, and of those that it forks, step while it runs.

file named by STEPPED_CLOCK: seconds to add, seconds that were added last --mapped--> time.time, time.time_ns

It is what code in Python sees of a clock that is wrong: Redis, files and the kernel have the right one. What reads the
time in C, `datetime.now` among it, does not step. Python imports this by its name, where PYTHONPATH has its folder.
"""

import mmap
import os
import struct
import time

_OFFSETS = struct.Struct("dd")


def _step(path: str) -> None:
    true_time, true_time_ns = time.time, time.time_ns
    with open(path, "r+b") as file:  # noqa: PTH123 - before anything is imported
        offsets = mmap.mmap(file.fileno(), _OFFSETS.size)

    def offset() -> float:
        wanted, seen = _OFFSETS.unpack_from(offsets)
        if seen != wanted:
            struct.pack_into("d", offsets, 8, wanted)
        return float(wanted)

    time.time = lambda: true_time() + offset()
    time.time_ns = lambda: true_time_ns() + int(offset() * 1e9)


if "STEPPED_CLOCK" in os.environ:
    _step(os.environ["STEPPED_CLOCK"])
