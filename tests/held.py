"""A function as a model that computes nothing, and stays at a row for as long as a test wants: the middle of a job."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.waiting import is_alive

# It tells who runs rows with the number that stands in the file `hold`, and waits for the lock on that file.
_MODEL = """
import fcntl
import os
import pathlib

HERE = pathlib.Path(__file__).parent


def held(rows):
    try:
        with open(HERE / "hold") as hold:
            if float(hold.read()) in rows:
                told = HERE / f"held.{os.fstat(hold.fileno()).st_ino}.{os.getpid()}"
                told.touch()
                fcntl.flock(hold, fcntl.LOCK_SH)
                told.unlink()
    except FileNotFoundError:
        pass
    return rows * 2
"""


def write_held_models(folder: Path) -> dict[str, object]:
    """Write the function beside a manifest, and give its entry, `held`."""
    (folder / "models_held.py").write_text(_MODEL)
    return {"held": {"path": "models_held:held", "batch_rows": 5000}}


@contextmanager
def holding(folder: Path, number: float) -> Iterator[Callable[[], None]]:
    """Rows with this number are held until the function that is given is called, or this has ended.

    Within it, another number may be held from then on.
    """
    new = folder / "hold.new"
    with new.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(str(number))
        file.flush()
        new.rename(folder / "hold")  # which stays: without the lock it holds nobody
        yield lambda: fcntl.flock(file, fcntl.LOCK_UN)


def held_child(folder: Path) -> int:
    """The pid of a child that is held, 0 if there is none."""
    return next(iter(held_children(folder)), 0)


def held_children(folder: Path) -> set[int]:
    """The pids of all children that are held, not those that a `holding` before this one has just let go."""
    hold = folder / "hold"
    found = folder.glob(f"held.{hold.stat().st_ino}.*") if hold.exists() else ()
    return {pid for told in found if is_alive(pid := int(told.suffix[1:]))}
