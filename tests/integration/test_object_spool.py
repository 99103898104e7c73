"""Payloads that are objects of a real store, between machines that share no folder: there while needed, then gone."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from producer import Client
from producer.records import job_store
from tasks.storage import objects, payload_objects
from tasks.transport import spool
from tests.fault_proxy import FaultProxy, proxy_before
from tests.manifests import write_manifest
from tests.object_stores import ObjectStore
from tests.seals import SEALER
from tests.systems import System, serving
from tests.waiting import wait_for_job, wait_until
from worker_config.errors import ConfigError, PayloadError
from worker_config.object_urls import ObjectUrl, object_url
from worker_config.settings import Settings

MODELS = """
def doubled(rows):
    return 2 * rows
"""
SPOOL = object_url("s3://rows/spool")
# Chunks and outputs of more than 64 KiB, so that nothing rides in the message.
ROWS = np.random.default_rng(3).random((6_000, 64), np.float32)
CHUNK_ROWS = 500
MARKS = 1


@pytest.fixture(scope="module")
def proxy(object_store: ObjectStore) -> Iterator[FaultProxy]:
    with object_store.used_here(), proxy_before(object_store.port) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, object_store: ObjectStore, proxy: FaultProxy) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("s")
    (folder / "spool_models.py").write_text(MODELS)
    environ = {**object_store.environment(endpoint=proxy.endpoint), "CELERIAC_SPOOL": str(SPOOL)}
    with serving(folder, write_manifest(folder, {"doubled": "spool_models:doubled"}), environ=environ) as system:
        yield system
        worker = system.workers[0]
        os.kill(worker.pid, signal.SIGTERM)
        worker.process.wait(60)
        assert names() == []  # it has taken its mark away


@pytest.fixture
def client(system: System) -> Iterator[Client]:
    with Client(system.url, settings=system.settings(spool=SPOOL)) as client:
        yield client


def names(place: ObjectUrl = SPOOL) -> list[str]:
    return [url.key.removeprefix(f"{place.key}/") for url, _ in objects.list_objects(place)]


def test_rows_and_outputs_are_objects_which_are_gone_afterwards(
    system: System, client: Client, proxy: FaultProxy
) -> None:
    proxy.seen.clear()
    job = client.submit("doubled", ROWS, chunk_rows=CHUNK_ROWS)
    np.testing.assert_array_equal(job.result(), 2 * ROWS)
    wait_for_job(job)
    with system.admin() as server:
        assert job_store.read(server, job.id, SEALER)[1].store == "files"
    asked = [line for line, _ in proxy.seen]  # by the worker; the producer asks the store itself
    assert any(line.startswith("GET ") and "/rows-" in line for line in asked)
    assert any(line.startswith("PUT ") and "/output-" in line for line in asked)
    assert len(names()) == MARKS


def test_a_payload_that_is_lost_or_damaged_comes_again_through_redis(client: Client) -> None:
    stop = threading.Event()

    def harm() -> None:
        lost = 0
        while not stop.is_set() and lost < 4:
            for name in names():
                if "/rows-" in name:
                    url = object_url(f"{SPOOL}/{name}")
                    objects.delete([url]) if lost % 2 else objects.put(url, b"of somebody else")
                    lost += 1

    thief = threading.Thread(target=harm)
    thief.start()
    try:
        job = client.submit("doubled", ROWS, chunk_rows=CHUNK_ROWS, store="files")
        np.testing.assert_array_equal(job.result(), 2 * ROWS)
    finally:
        stop.set()
        thief.join()
    job.ledger.check()
    wait_for_job(job)
    wait_until(lambda: all("/rows-" not in name for name in names()), "what the thief has put back is gone", 30)


def test_a_store_that_takes_nothing_gives_way_to_redis(
    system: System, client: Client, proxy: FaultProxy, object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    monkeypatch.setattr("tasks.storage.stores._stores", {})
    monkeypatch.setattr("tasks.storage.requests.STORE_WAIT_SECONDS", 0.0)
    proxy.refused["/rows-"] = (10_000, 403)
    try:
        job = client.submit("doubled", ROWS, chunk_rows=CHUNK_ROWS)
        np.testing.assert_array_equal(job.result(), 2 * ROWS)
    finally:
        del proxy.refused["/rows-"]


def test_a_prefix_that_workers_do_not_share_is_not_used(system: System) -> None:
    other = object_url("s3://rows/other-spool")
    with Client(system.url, settings=system.settings(spool=other)) as client:
        job = client.submit("doubled", ROWS, chunk_rows=CHUNK_ROWS)
        np.testing.assert_array_equal(job.result(), 2 * ROWS)
        wait_for_job(job)
    with system.admin() as server:
        assert job_store.read(server, job.id, SEALER)[1].store == "redis"
    assert names(other) == []


def test_what_killed_producers_have_left_is_found_and_nothing_else(proxy: FaultProxy) -> None:
    place = object_url("s3://rows/left/spool")
    ref = spool.write(place, "0123456789ab", "rows-3", [b"1", memoryview(b"23")])
    assert spool.read(place, ref) == b"123"
    for name in ("0123456789ab/of/others", "0123456789AB/rows-1", "notes.txt"):
        objects.put(object_url(f"{place}/{name}"), b"1")
    spool.forget_old_jobs(place, 3_600)
    assert len(names(place)) == 4
    spool.forget_old_jobs(place, -10)
    assert sorted(names(place)) == ["0123456789AB/rows-1", "0123456789ab/of/others", "notes.txt"]
    with pytest.raises(PayloadError, match="the payload cannot be read: s3://rows/left/spool/0123456789ab/rows-3"):
        spool.read(place, ref)


def test_a_payload_that_is_too_large_to_be_one_takes_no_memory(
    proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = object_url("s3://rows/large")
    ref = spool.write(place, "0123456789ab", "rows-3", [b"1" * 1_000])
    monkeypatch.setattr(payload_objects, "_MOST_BYTES", 999)
    with pytest.raises(PayloadError, match="has 1,000 bytes, which none of ours has"):
        spool.read(place, ref)


def test_the_doctor_sees_whether_the_prefix_is_shared_and_may_be_written(
    system: System, object_store: ObjectStore
) -> None:
    told = system.celeriac("doctor", CELERIAC_SPOOL=str(SPOOL), **object_store.environment()).stdout
    assert f"{SPOOL}, shared with 1 worker" in told
    told = system.celeriac("doctor", CELERIAC_SPOOL="s3://rows/elsewhere", **object_store.environment()).stdout
    assert "s3://rows/elsewhere is not that of" in told
    told = system.celeriac("doctor", CELERIAC_SPOOL=str(SPOOL), **object_store.environment("reader")).stdout
    assert "may not be written with this machine's credentials (HTTP 403" in told


@pytest.mark.parametrize("text", ["http://host/spool", "s3://", "s3://rows/../x", "s3://key:secret@rows/x", "spool"])
def test_what_is_no_place_for_payloads_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="CELERIAC_SPOOL") as error:
        Settings.from_env({"CELERIAC_SPOOL": text})
    assert "key:secret@rows" not in str(error.value).partition(": ")[2]
