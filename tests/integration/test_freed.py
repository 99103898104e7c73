"""What a job has is free once nobody keeps the job: rows and outputs do not wait for Python's collector of cycles."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from producer import Client
from producer.training import Loader
from tests.manifests import write_manifest
from tests.systems import System, serving, shared_folders
from tests.waiting import wait_until
from worker_config.errors import CeleriacError

ROWS = np.random.default_rng(3).random((400, 8), np.float32)
CHUNK_ROWS = 50
MODEL = """
def double(rows):
    rows = rows["x"] if isinstance(rows, dict) else rows
    return rows * 2


def bad(rows):
    raise ValueError("a bad row")
"""
PACKAGES = ("producer", "tasks", "worker_config")


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("f")
    (folder / "freed_model.py").write_text(MODEL)
    entries = {name: {"path": f"freed_model:{name}", "batch_rows": CHUNK_ROWS} for name in ("double", "bad")}
    (folder / "out").mkdir()
    environ = {**shared_folders(folder), "CELERIAC_OUTPUT_ROOTS": str(folder / "out")}
    with serving(folder, write_manifest(folder, entries), environ=environ) as system:
        yield system


def _whole(client: Client, out: Path) -> None:
    client.submit("double", ROWS, chunk_rows=CHUNK_ROWS).result()


def _of_iterator(client: Client, out: Path) -> None:
    client.submit("double", iter(ROWS), chunk_rows=CHUNK_ROWS).show_progress().result()


def _of_frame(client: Client, out: Path) -> None:
    client.submit("double", pd.DataFrame({"x": ROWS[:, 0]}), chunk_rows=CHUNK_ROWS).result("frame")


def _parts(client: Client, out: Path) -> None:
    for _ in client.submit("double", ROWS, chunk_rows=CHUNK_ROWS).parts():
        pass


def _left(client: Client, out: Path) -> None:
    for _ in client.submit("double", ROWS, chunk_rows=CHUNK_ROWS).parts():
        break


def _cancelled(client: Client, out: Path) -> None:
    job = client.submit("double", ROWS, chunk_rows=1)
    job.cancel()
    with suppress(CeleriacError):
        job.result()


def _failed(client: Client, out: Path) -> None:
    with pytest.raises(CeleriacError, match="a bad row"):
        client.submit("bad", ROWS, chunk_rows=CHUNK_ROWS).result()


def _into_a_file(client: Client, out: Path) -> None:
    client.predict_to(out / "a.npy", "double", ROWS, force=True)


def _into_a_folder(client: Client, out: Path) -> None:
    client.predict_to(out / "a.parquet/", "double", ROWS, force=True)


def _fed(client: Client, out: Path) -> None:
    with Loader(client, "double", ROWS, batch_rows=100, shuffle=True, seed=1, chunk_rows=CHUNK_ROWS) as loader:
        assert sum(len(batch) for batch in loader) == len(ROWS)


def _detached(client: Client, out: Path) -> None:
    job = client.attach(client.submit("double", ROWS, chunk_rows=CHUNK_ROWS, detach=True))
    job.result()
    job.cancel()


def _request(client: Client, out: Path) -> None:
    client.predict("double", ROWS[:2])


@pytest.mark.parametrize(
    "use",
    [
        _whole,
        _of_iterator,
        _of_frame,
        _parts,
        _left,
        _cancelled,
        _failed,
        _into_a_file,
        _into_a_folder,
        _fed,
        _detached,
        _request,
    ],
    ids=lambda use: use.__name__.strip("_"),
)
def test_nothing_of_a_job_waits_for_the_collector(
    use: Callable[[Client, Path], None], client: Client, system: System
) -> None:
    use(client, system.folder / "out")  # what is made once, and stays
    with _garbage() as found:
        use(client, system.folder / "out")
    ours = {f"{type(one).__module__}.{type(one).__qualname__}" for one in found}
    assert not {name for name in ours if name.partition(".")[0] in PACKAGES}


@contextmanager
def _garbage() -> Iterator[list[object]]:
    """What the collector finds of what was made in the block, once its jobs have ended."""
    _wait_for_jobs()
    gc.collect()
    gc.disable()
    found: list[object] = []
    try:
        yield found
        _wait_for_jobs()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        found += gc.garbage
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def _wait_for_jobs() -> None:
    def none_runs() -> bool:
        return not [one for one in threading.enumerate() if one.name.startswith("celeriac-")]

    wait_until(none_runs, "no job runs")
