"""The dashboard of a real worker: what its slots run, and buttons that drain it, take it back and reload its models."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from producer import Client, JobState
from tasks.protocol.rights import WORKER
from tests.dashboards import Dashboard, dashboard
from tests.manifests import write_manifest
from tests.systems import System, serving

MODEL = """
import os

from tests.waiting import wait_until


def gated(rows):
    if rows[0, 0] > 0.5:
        wait_until(lambda: os.path.exists("go"), "the test lets the row go on")
    return rows * 2
"""
NODE = "first@here"


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("s")
    (folder / "gated_model.py").write_text(MODEL)
    manifest = write_manifest(folder, {"gated": {"path": "gated_model:gated", "batch_rows": 1}})
    with serving(folder) as system:
        system.start_ready_worker(manifest, 2, "-n", NODE)
        yield system


@pytest.fixture(scope="module")
def board(system: System, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dashboard]:
    # Its buttons do what `celery control` does, too.
    with dashboard(system.redis.url_as(WORKER), tmp_path_factory.mktemp("d")) as board:
        yield board


def test_what_slots_run_and_a_drain_and_back(system: System, board: Dashboard) -> None:
    """The job goes on meanwhile, and every row is there."""
    worker = f"worker:{NODE}"
    with Client(system.url, worker_timeout_seconds=600) as client, board.looking() as events:
        job = client.submit("gated", np.ones((6, 1), np.float32), chunk_rows=1)
        slots = events.until(
            lambda values: [one for one in values.get(worker, {"slots": []})["slots"] if one[2] == job.id]
        )
        assert len(slots) <= 2
        assert f"of job {job.id}, gated@" in slots[0][3]
        assert events.values[f"job:{job.id}"]["slots"] == 2
        (model,) = [value for key, value in events.values.items() if key.startswith("model:")]
        assert (model["name"], model["places"]) == ("gated", [[NODE, 2]])

        status, said = board.press(f"/workers/{NODE}/drain")
        assert (status, said.split(":")[0]) == (200, NODE), said
        drained = events.until(lambda values: values[worker]["draining"] and values[worker])
        assert {one[2] for one in drained["slots"]} == {job.id}, "what runs ends first, and is shown"
        assert not [key for key in events.values if key.startswith("model:")], "it is still counted on"

        (system.folder / "go").touch()
        assert events.until(lambda values: not values[worker]["slots"] and values[worker]["draining"])
        status, said = board.press(f"/workers/{NODE}/resume")
        assert (status, said) == (200, f"{NODE}: the worker takes chunks again")
        events.until(lambda values: not values[worker]["draining"] and len(values[worker]["slots"]) == 2)
        np.testing.assert_array_equal(job.result(), np.full((6, 1), 2, np.float32))
        events.until(lambda values: values[f"job:{job.id}"]["state"] == JobState.DONE.value)


def test_models_are_reloaded(board: Dashboard) -> None:
    status, said = board.press(f"/workers/{NODE}/reload")
    assert status == 200
    assert said.startswith(f"{NODE}: models are being reloaded")


def test_a_worker_that_is_not_there(board: Dashboard) -> None:
    status, said = board.press("/workers/second@here/drain")
    assert status == 409
    assert said.startswith("second@here does not answer; is it up")


def test_a_job_of_real_rows_grows_on_the_page(system: System, board: Dashboard) -> None:
    """Its picture has more bars when more chunks have been answered, and its failures their rows."""
    with Client(system.url) as client:
        job = client.submit("gated", np.zeros((40, 1), np.float32), chunk_rows=1)
        job.result()
        with board.looking(f"/jobs/{job.id}/events") as events:
            lanes = events.until(lambda values: values.get("chart:lanes"))
    computed = next(trace for trace in lanes["data"] if trace["name"] == "computing")
    assert len(computed["y"]) == 40
    assert events.values["head"]["verdict"].startswith("40 rows in ")
    assert events.values["failures"] == {"failed": 0, "known": 0, "records": []}
