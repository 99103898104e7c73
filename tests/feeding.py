"""Steps that feed training loops in tests, a system that runs them, and what must be left when a loop has ended."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from producer import Client
from tasks import keys
from tasks.connection import connect
from tests.manifests import write_manifest
from tests.systems import System, serving, shared_folders
from tests.waiting import wait_until
from worker_config.settings import Settings

STEPS = """
import time
from pathlib import Path

import ml_dtypes
import numpy as np

HERE = Path(__file__).parent


def pairs(rows):
    if (rows[:, 0] < 0).any():
        raise ValueError("a bad row")
    return {"x": np.tanh(rows[:, 1:]), "y": rows[:, 0].astype(np.int64)}


def pair(outputs):
    return outputs["x"], outputs["y"]


def paced(rows):
    time.sleep(0.03)
    return pairs(rows)


def gated(rows):
    while (rows[:, 0] >= 16).any() and not (HERE / "gate").exists():
        time.sleep(0.01)
    return pairs(rows)


def heavy(rows):
    return np.repeat(rows[:, :1], 16384, axis=1)


def changing(rows):
    numbers = rows[:, 0]
    return {"x": numbers.astype(np.float64) if (numbers >= 20).any() else numbers}


def texts(paths):
    return {
        "name": np.array([str(path).upper() for path in paths], object),
        "size": np.array([len(path) for path in paths]).astype(ml_dtypes.bfloat16),
    }
"""
CHILDREN = 2
ROWS = 60
WIDTH = 5


def numbered_rows(rows: int = ROWS) -> Any:
    """Rows that begin with their number, which is their label too."""
    data = np.random.default_rng(8).random((rows, WIDTH)).astype(np.float32)
    data[:, 0] = np.arange(rows)
    return data


def pairs_of(rows: Any) -> tuple[Any, Any]:
    """What the steps make of the rows."""
    return np.tanh(rows[:, 1:]), rows[:, 0].astype(np.int64)


def labels(batches: Any) -> list[list[int]]:
    """The numbers of the rows of each batch."""
    return [np.asarray(batch[1]).tolist() for batch in batches]


@contextmanager
def feeding(folder: Path) -> Iterator[System]:
    """A Redis, and a worker with the steps, which shares `spool` and `data` with the client."""
    (folder / "feeding_steps.py").write_text(STEPS)
    steps = {name: {"path": f"feeding_steps:{name}", "batch_rows": 4} for name in ("heavy", "changing", "texts")}
    for name in ("pairs", "paced", "gated"):
        steps[name] = {"path": f"feeding_steps:{name}", "batch_rows": 4, "postprocess": "feeding_steps:pair"}
    manifest = write_manifest(folder, steps)
    with serving(folder, manifest, CHILDREN, shared_folders(folder)) as system:
        yield system


@contextmanager
def fed_by(system: System) -> Iterator[Client]:
    """A client that shares the spool folder."""
    settings = replace(Settings.from_env(), broker_url=system.url, spool=system.folder / "spool")
    with Client(system.url, settings=settings) as client:
        yield client


def job_threads() -> list[str]:
    """Threads that jobs have in this process."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("celeriac-")]


def check_nothing_left(system: System) -> None:
    """No thread, spool file or key but the records of jobs and of rows that failed."""
    gc.collect()  # an exception's traceback keeps the iterators of its frames
    wait_until(lambda: not job_threads(), "the jobs have ended")
    spool = system.folder / "spool"
    wait_until(lambda: set(spool.iterdir()) == set(spool.glob(".worker-*")), "the spool folder is empty")
    with connect(system.url) as server:

        def left() -> list[bytes]:
            return [key for key in server.scan_iter(keys.job("*") + ":*") if not key.endswith(b":failures")]

        wait_until(lambda: not left(), "only the records of jobs are left")
