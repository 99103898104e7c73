"""Children killed and replaced under load, with each executor: every row right, in order, as in an undisturbed job."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from producer import Client
from tasks.executors import EXECUTORS
from tasks.executors.operation_table import CONVERTERS, RUNTIMES
from tasks.snapshots.installed import installed
from tests.forms import LONG
from tests.manifests import write_manifest
from tests.models import in_one_process, keras_may_warn
from tests.systems import REPOSITORY, System, serving
from tests.waiting import is_alive, wait_until

KILLS = 5 if LONG else 1
BLOCK_ROWS, CHUNK_ROWS = 300, 50
NAMES = [
    name
    for name in EXECUTORS
    if all(installed(packages[name]) for packages in (RUNTIMES, CONVERTERS) if name in packages)
]

# Read by every Python of the worker: each model is run by the executor that it is named after; those that this
# processor has not stay with the own graph.
_HOOK = """
from tasks.preparation import prepare, trials
from tasks.snapshots.record import Trial, Trials


def named(model, folder, snapshot, entry, context):
    graph = Trial("graph", True, batch_seconds=1.0)
    if model == "graph":
        return Trials([graph], "rows.npy")
    found = trials._try(model, folder, snapshot, entry.batch_rows, context.threads)
    return Trials([graph, Trial(model, found.agrees, 0.001, why=found.why, limit=found.limit)], "rows.npy")


prepare.trials_here = named
"""


@keras_may_warn()
def write_model(folder: Path, rows: np.ndarray) -> None:
    import keras
    from keras import layers

    keras.utils.set_random_seed(7)
    hidden = [layers.Dense(64, activation="relu") for _ in range(2)]
    keras.Sequential([keras.Input((24,)), *hidden, layers.Dense(10)]).save(folder / "model.keras")
    np.save(folder / "rows.npy", rows)


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    return np.random.default_rng(6).uniform(-1, 1, (BLOCK_ROWS, 24)).astype(np.float32)


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, rows: np.ndarray) -> Iterator[System]:
    """A worker with a model for each executor."""
    folder = tmp_path_factory.mktemp("s")
    write_model(folder, rows)
    (folder / "hook").mkdir()
    (folder / "hook" / "sitecustomize.py").write_text(_HOOK)
    entry = {"path": "model.keras", "batch_rows": 16, "calibration": "rows.npy", "tolerance": 0.3}
    # They share one snapshot.
    models = {
        name: {**entry, "precision": [precision]} if (precision := EXECUTORS[name].precision) != "float32" else entry
        for name in NAMES
    }
    environ = {"PYTHONPATH": f"{folder / 'hook'}:{REPOSITORY}", "XDG_CACHE_HOME": str(folder)}
    with serving(folder, write_manifest(folder, models), environ=environ) as system:
        for slot in system.slots():
            given = {info.name: (info.executor, info.note) for info in slot.models}
            others = {name: one for name, one in given.items() if one[0] != name}
            assert all("bfloat16" in name and "processor" in why for name, (_, why) in others.items()), others
        yield system


@pytest.mark.parametrize("name", [*NAMES, "all at once"] if LONG else ["all at once"])
def test_children_killed_and_replaced_under_load_cost_no_row_and_change_none(
    system: System, rows: np.ndarray, name: str
) -> None:
    models = NAMES if name == "all at once" else [name]
    expected = in_one_process(system.folder / "model.keras", rows)
    with Client(system.url) as client:
        undisturbed = client.predict(models, rows, chunk_rows=CHUNK_ROWS)
        undisturbed = undisturbed if len(models) > 1 else {name: undisturbed}
        for model in models:
            least = 1e-4 if EXECUTORS[model].precision == "float32" else 0.3 * expected.std()
            assert np.abs(undisturbed[model] - expected).max() <= least, model

        is_over: list[bool] = []

        def blocks() -> Iterator[np.ndarray]:
            while not is_over:
                yield from rows

        job = client.submit(models, blocks(), chunk_rows=CHUNK_ROWS)
        killed = set()
        for kill in range(KILLS):
            answered = job.ledger.chunks_answered
            wait_until(lambda least=answered + 3: job.ledger.chunks_answered >= least, "the job runs")
            pid = system.slots()[kill % 2].pid
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda pid=pid: not is_alive(pid), "the child is dead")
            killed.add(pid)
            wait_until(
                lambda: len(slots := system.slots()) == 2 and not killed & {slot.pid for slot in slots},
                "another child is in its place",
            )
        is_over.append(True)
        outputs = job.result()
    outputs = outputs if len(models) > 1 else {name: outputs}
    job.ledger.check()
    count = job.ledger.rows
    assert count % BLOCK_ROWS == 0
    assert (job.ledger.predicted, job.ledger.failed) == (count, 0)
    for model in models:
        np.testing.assert_array_equal(outputs[model], np.tile(undisturbed[model], (count // BLOCK_ROWS, 1)), model)
