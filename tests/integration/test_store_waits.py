"""A store that a worker waits for: whoever waits for the job is told, and its chunks are not sent about meanwhile."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis

from producer import Client, Job
from producer.broker.shard_clients import ShardClients
from producer.dashboard.overview import Overview
from producer.sources import open_source
from tasks.protocol.seal import Viewer
from tasks.storage import objects
from tests.fault_proxy import FaultProxy, proxy_before
from tests.manifests import write_manifest
from tests.object_stores import ObjectStore
from tests.systems import SIGNING_KEYS, System, serving
from tests.waiting import wait_until
from worker_config.object_urls import object_url

URL = "s3://rows/waits/rows.npy"
ROWS, CHUNK_ROWS, FILES = 4_000, 10, 40
MODELS = """
import time

def seen(rows):
    time.sleep(0.05)
    return rows["x"] + 1 if isinstance(rows, dict) else rows + 1
"""


@pytest.fixture(scope="module")
def proxy(object_store: ObjectStore) -> Iterator[FaultProxy]:
    """What the workers ask; the producer asks the store itself."""
    with object_store.used_here(), proxy_before(object_store.port) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, object_store: ObjectStore, proxy: FaultProxy) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("s")
    (folder / "waiting_models.py").write_text(MODELS)
    environ = {**object_store.environment(endpoint=proxy.endpoint), "CELERIAC_DATA_ROOTS": "s3://rows/waits"}
    with serving(folder, write_manifest(folder, {"seen": "waiting_models:seen"}), environ=environ) as system:
        yield system


def test_whoever_waits_for_a_job_is_told_of_the_store_until_it_is_over(
    client: Client,
    system: System,
    server: redis.Redis,
    proxy: FaultProxy,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    data = np.random.default_rng(1).random((ROWS, 4), np.float32)
    np.save(tmp_path / "rows.npy", data)
    objects.put(object_url(URL), tmp_path / "rows.npy")
    with caplog.at_level(logging.WARNING, "producer"), ThreadPoolExecutor() as threads:
        job = client.submit("seen", open_source(URL), store="slices", chunk_rows=CHUNK_ROWS)
        parts = job.parts()
        first = [next(parts) for _ in range(5)]
        watching = threads.submit(system.celeriac, "watch", job.id)
        assert job.progress().waits == ""
        proxy.refused["GET"] = (10**9, 503)
        what = f"waits for {URL}: the store is busy or in trouble (HTTP 503"
        wait_until(lambda: what in job.progress().waits, "the caller is told")
        status = wait_until(lambda: _status(system, job.id, what), "the record tells it too")
        assert status["state"] == "running"
        values = Overview(Viewer(SIGNING_KEYS)).read(ShardClients([system.url], [server]))
        assert any(what in note for note in values[f"job:{job.id}"]["notes"])
        [worker] = [one for name, one in values.items() if name.startswith("worker:")]
        assert any(f"waits for {URL}" in slot[3] for slot in worker["slots"])
        wait_until(lambda: re.search(r"for 1\d s by now", job.progress().waits), "it goes on for ten seconds")
        proxy.refused.clear()
        rest = list(parts)
        outputs = np.concatenate([np.asarray(part.outputs) for part in (*first, *rest)])
    np.testing.assert_array_equal(outputs, data + 1)
    assert job.progress().waits == ""
    told = [record.message.partition(";")[0] for record in caplog.records if record.name == "producer.job.resend"]
    assert what in told[0]
    assert told[0].startswith(f"job {job.id} waits: worker {system.slots()[0].worker} ")
    assert not any(what in text for text in told[told.index(f"job {job.id} goes on") :])
    status = _status(system, job.id, "")
    assert status
    assert status["waits"] == ""
    watched = watching.result()
    assert watched.returncode == 0, watched.stderr
    assert f"job {job.id} waits: worker {system.slots()[0].worker} {what}" in watched.stderr
    assert f"job {job.id} goes on" in watched.stderr


def test_a_chunk_that_waits_for_a_store_is_not_sent_again_and_again(
    client: Client, proxy: FaultProxy, tmp_path: Path
) -> None:
    for number in range(FILES):
        pq.write_table(pa.table({"x": np.full(10, number, np.float32)}), tmp_path / "x.parquet")
        objects.put(object_url(f"s3://rows/waits/files/part-{number:02}.parquet"), tmp_path / "x.parquet")
    proxy.refused["part-12"] = (10**9, 503)
    job = client.submit("seen", open_source("s3://rows/waits/files/"), store="slices", chunk_rows=10)
    wait_until(lambda: re.search(r"part-12.* for 1\d s by now", job.progress().waits), "it waits for ten seconds")
    assert job.progress().predicted > 12 * 10
    # Perhaps once, before anybody knew why it was late; each of the others, too, while the machine is busy.
    assert max(Counter(_sent_again(job)).values(), default=0) <= 1
    proxy.refused.clear()
    np.testing.assert_array_equal(job.result(), np.repeat(np.arange(FILES, dtype=np.float32), 10) + 1)


def test_who_looks_at_a_detached_job_is_told(client: Client, system: System, proxy: FaultProxy, tmp_path: Path) -> None:
    data = np.arange(400, dtype=np.float32).reshape(-1, 4)
    np.save(tmp_path / "few.npy", data)
    url = "s3://rows/waits/few.npy"
    objects.put(object_url(url), tmp_path / "few.npy")
    proxy.refused["few.npy"] = (10**9, 503)
    job = client.attach(client.submit("seen", open_source(url), store="slices", chunk_rows=10, detach=True))
    what = f"waits for {url}: the store is busy or in trouble (HTTP 503"
    wait_until(lambda: what in job.progress().waits, "who asks is told")
    wait_until(lambda: _status(system, job.id, what), "so is `celeriac status`")
    proxy.refused.clear()
    wait_until(lambda: job.wait(1), "the job ends")
    assert job.progress().waits == ""
    np.testing.assert_array_equal(job.result(), data + 1)


def _sent_again(job: Job) -> list[int | None]:
    return [event.index for event in job.context.timeline.summary.events if event.kind == "sent again"]


def _status(system: System, job: str, what: str) -> dict[str, object] | None:
    shown = system.celeriac("status", job, "--json")
    assert shown.returncode == 0, shown.stderr
    values: dict[str, object] = json.loads(shown.stdout)
    return values if what in str(values["waits"]) else None
