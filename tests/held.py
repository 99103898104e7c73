"""A model that stays at a row for as long as a test wants, so that things happen in the middle of a chunk."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.waiting import is_alive

# Doubles rows; tells who runs those with the number that stands in the file `hold`, and waits for the lock on that.
_MODEL = """
import fcntl
import os
import pathlib

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
"""


def write_held_model(folder: Path) -> dict[str, object]:
    """Write the model beside a manifest, and give its entry."""
    (folder / "models_held.py").write_text(_MODEL)
    return {"path": "models_held:held", "batch_rows": 5000}


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
    pids = [int(told.suffix[1:]) for told in folder.glob("held.*")]
    return next((pid for pid in pids if is_alive(pid)), 0)
