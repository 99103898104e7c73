"""Functions as models that take their time and compute nothing, so that things happen in the middle of a chunk."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.waiting import is_alive

# `held` tells who runs rows with the number that stands in the file `hold`, and waits for the lock on that file; `slow`
# and `slower` take their time for each chunk.
_MODELS = """
import fcntl
import os
import pathlib
import time

HERE = pathlib.Path(__file__).parent


def held(rows):
    told = HERE / f"held.{os.getpid()}"
    try:
        with open(HERE / "hold") as hold:
            if float(hold.read()) in rows:
                told.touch()
                fcntl.flock(hold, fcntl.LOCK_SH)
    except FileNotFoundError:
        pass
    told.unlink(missing_ok=True)
    return rows * 2


def slow(rows):
    time.sleep(0.1)
    return rows * 2


def slower(rows):
    time.sleep(0.5)
    return rows * 2
"""


def write_held_models(folder: Path) -> dict[str, object]:
    """Write the functions beside a manifest, and give their entries."""
    (folder / "models_held.py").write_text(_MODELS)
    return {name: {"path": f"models_held:{name}", "batch_rows": 5000} for name in ("held", "slow", "slower")}


@contextmanager
def holding(folder: Path, number: float) -> Iterator[Callable[[], None]]:
    """Rows with this number are held until the function that is given is called, or this has ended."""
    hold, new = folder / "hold", folder / "hold.new"
    with new.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(str(number))
        file.flush()
        new.rename(hold)

        def let_go() -> None:
            hold.unlink(missing_ok=True)
            fcntl.flock(file, fcntl.LOCK_UN)

        try:
            yield let_go
        finally:
            let_go()


def held_child(folder: Path) -> int:
    """The pid of a child that is held, 0 if there is none."""
    return next(iter(held_children(folder)), 0)


def held_children(folder: Path) -> set[int]:
    """The pids of all children that are held."""
    return {pid for told in folder.glob("held.*") if is_alive(pid := int(told.suffix[1:]))}
