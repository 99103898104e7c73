"""A job that is cancelled, and one whose counts do not add up: what is left of them, and who is told."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import redis

from producer import Client, JobState
from producer.job.collector import Collector
from producer.records import job_store
from producer.records.timeline import Outcome
from tasks.protocol import keys
from tasks.protocol.messages import Answer
from tests.chunks import deaths
from tests.manifests import write_manifest
from tests.seals import SEALER
from tests.systems import System, queues, serving
from tests.waiting import is_alive, wait_for_job, wait_until
from worker_config.errors import CeleriacError, JobCancelledError, RowsFailedError

CHILDREN = 2
CHUNK_SECONDS = 2
CHUNK_ROWS = 4
# Each takes 128 KiB a row, so that its payload is a key of its own.
ROWS = np.random.default_rng(5).random((40, 32_768), np.float32)
MODEL = """
import threading
from pathlib import Path


def stuck(rows):
    number = int(rows[0, 0])
    if number:
        (Path(__file__).parent / f"begun{number}").touch()
        if number > 1:
            threading.Event().wait()
    return rows + 1
"""


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("s")
    (folder / "stuck_model.py").write_text(MODEL)
    manifest = write_manifest(folder, {"stuck": {"path": "stuck_model:stuck", "batch_rows": CHUNK_ROWS}})
    with serving(folder, manifest, CHILDREN, {"CELERIAC_CHUNK_TIMEOUT_SECONDS": str(CHUNK_SECONDS)}) as system:
        yield system


def begun(system: System) -> set[str]:
    """What the model has put down of the chunks that it has begun."""
    return {path.name for path in system.folder.glob("begun*")}


def test_cancel_runs_no_queued_chunk_and_frees_every_child(system: System, client: Client, server: redis.Redis) -> None:
    (worker,) = system.workers
    before = deaths(worker)
    rows = ROWS.copy()
    rows[::CHUNK_ROWS, 0] = [2, 3, *[1] * 8]  # the first two chunks are never done
    job = client.submit("stuck", rows, chunk_rows=CHUNK_ROWS, store="redis", on_error="skip")
    wait_until(lambda: begun(system) == {"begun2", "begun3"}, "every child runs a chunk")
    wait_until(lambda: job.ledger.chunks_sent > CHILDREN and queues(server), "more chunks are queued")

    job.cancel()
    with pytest.raises(JobCancelledError, match=f"job {job.id} was cancelled; 0 of 40 rows were predicted"):
        job.result()
    wait_for_job(job)
    job.ledger.check()
    assert (job.state, job.ledger.skipped, job.ledger.failed) == (JobState.CANCELLED, 40, 0)

    wait_until(lambda: deaths(worker) - before == CHILDREN, "the time limit has freed both children")
    wait_until(lambda: sum(is_alive(slot.pid) for slot in system.slots()) == CHILDREN, "others are in their place")
    wait_until(lambda: not queues(server), "what was queued is dropped")
    np.testing.assert_array_equal(client.predict("stuck", ROWS), ROWS + 1)
    assert begun(system) == {"begun2", "begun3"}, "no other chunk was begun"
    assert deaths(worker) - before == CHILDREN
    system.wait_until_nothing_is_left(job.id)
    assert server.ttl(keys.job(job.id)) > 0


def test_a_job_whose_counts_do_not_add_up_fails_loudly(
    client: Client, server: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    collect = Collector.collect

    def forget_a_row(collector: Collector, answer: Answer) -> tuple[Outcome, RowsFailedError | None]:
        outcome = collect(collector, answer)
        collector._ledger.predicted -= answer.index == 3
        return outcome

    monkeypatch.setattr(Collector, "collect", forget_a_row)
    job = client.submit("stuck", ROWS, chunk_rows=CHUNK_ROWS)
    with pytest.raises(CeleriacError, match="the ledger does not add up: 40 rows read, but 39 accounted for"):
        job.result()
    wait_for_job(job)
    assert job.state is JobState.FAILED
    state, record = job_store.read(server, job.id, SEALER)
    assert state is JobState.FAILED
    assert "do not trust the output" in record.error
