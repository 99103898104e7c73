"""Steps that feed training loops in tests, a system that runs them, and what must be left when a loop has ended."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tasks.protocol import keys
from tests.manifests import write_manifest
from tests.systems import REPOSITORY, System, serving, shared_folders
from tests.waiting import wait_until

STEPS = """
from pathlib import Path

import ml_dtypes
import numpy as np

from tests.waiting import take, wait_until

HERE = Path(__file__).parent


def pairs(rows):
    if (rows[:, 0] < 0).any():
        raise ValueError("a bad row")
    return {"x": np.tanh(rows[:, 1:]), "y": rows[:, 0].astype(np.int64)}


def pair(outputs):
    return outputs["x"], outputs["y"]


def good(rows):
    return [None if row[0] < 0 else row for row in rows]


def apart(rows):
    return np.tanh(rows[:, 1:]), rows[:, 0].astype(np.int64)


def paced(rows):
    take(0.03)
    return pairs(rows)


def gated(rows):
    if (rows[:, 0] >= 16).any():
        wait_until((HERE / "gate").exists, "the test opens the gate")
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
    steps["good"] = {"preprocess": "feeding_steps:good", "drops_rows": True, "postprocess": "feeding_steps:apart"}
    manifest = write_manifest(folder, steps)
    with serving(folder, manifest, CHILDREN, shared_folders(folder) | {"PYTHONPATH": str(REPOSITORY)}) as system:
        yield system


def small_model() -> Any:
    """A model with the same weights each time, which learns the rows' numbers."""
    import keras

    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((WIDTH - 1,)), keras.layers.Dense(3), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    return model


def job_threads() -> list[str]:
    """Threads that jobs have in this process."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("celeriac-")]


def check_nothing_left(system: System) -> None:
    """No thread, spool file or key but the records of jobs, their timelines, and rows that failed."""
    gc.collect()  # an exception's traceback keeps the iterators of its frames
    wait_until(lambda: not job_threads(), "the jobs have ended")
    spool = system.folder / "spool"
    wait_until(lambda: set(spool.iterdir()) == set(spool.glob(".worker-*")), "the spool folder is empty")
    with system.admin() as server:

        def left() -> list[bytes]:
            stay = (b":failures", b":timeline")
            return [key for key in server.scan_iter(keys.job("*") + ":*") if not key.endswith(stay)]

        wait_until(lambda: not left(), "only the records of jobs are left")
