"""A model that stays at a row for as long as a test wants, so that things happen in the middle of a chunk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.waiting import is_alive

# Doubles rows; tells who runs those with the number that stands in the file `hold`, as long as that is there.
_MODEL = """
import os
import pathlib
import time

HERE = pathlib.Path(__file__).parent


def held(rows):
    hold, told = HERE / "hold", HERE / f"held.{os.getpid()}"
    while hold.exists() and float(hold.read_text()) in rows:
        told.touch()
        time.sleep(0.01)
    told.unlink(missing_ok=True)
    return rows * 2
"""


def write_held_model(folder: Path) -> dict[str, object]:
    """Write the model beside a manifest, and give its entry."""
    (folder / "models_held.py").write_text(_MODEL)
    return {"path": "models_held:held", "batch_rows": 5000}


@contextmanager
def holding(folder: Path, number: float) -> Iterator[Path]:
    """Rows with this number are held until the file that is given, or this, is gone."""
    hold = folder / "hold"
    hold.with_suffix(".new").write_text(str(number))
    hold.with_suffix(".new").rename(hold)
    try:
        yield hold
    finally:
        hold.unlink(missing_ok=True)


def held_child(folder: Path) -> int:
    """The pid of a child that is held, 0 if there is none."""
    pids = [int(told.suffix[1:]) for told in folder.glob("held.*")]
    return next((pid for pid in pids if is_alive(pid)), 0)
