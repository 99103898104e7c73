"""The ways of the rows: slices of their own file, the spool folder, Redis; what is chosen, and what when one fails."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from producer import Client
from producer.records import job_store
from tests.manifests import write_manifest
from tests.models import in_one_process
from tests.seals import SEALER
from tests.systems import RedisServer, System, serving, shared_folders
from tests.waiting import wait_for_job
from worker_config.errors import RowsFailedError, UsageError

CLOSE = {"rtol": 1e-5, "atol": 1e-6}
# More than 64 KiB in a chunk, so that nothing rides in the message.
ROWS = np.random.default_rng(3).random((3_000, 64), np.float32)
CHUNK_ROWS = 700


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[System]:
    """A worker that shares a spool folder and may open files under `data`."""
    folder = tmp_path_factory.mktemp("s")
    with serving(folder, models / "models.toml", environ=shared_folders(folder)) as system:
        yield system


@pytest.fixture
def client(shared: System) -> Iterator[Client]:
    settings = shared.settings(spool=shared.folder / "spool")
    with Client(shared.url, settings=settings) as client:
        yield client


@pytest.fixture(scope="module")
def file(shared: System) -> Path:
    path = shared.folder / "data" / "rows.npy"
    np.save(path, ROWS)
    return path


@pytest.fixture(scope="module")
def expected(models: Path) -> Any:
    return in_one_process(models / "digits.keras", ROWS)


def store_of(system: System, job_id: str) -> str:
    with system.admin() as server:
        return job_store.read(server, job_id, SEALER)[1].store


@pytest.mark.parametrize("store", ["redis", "files", "slices"])
def test_every_way_gives_the_same_outputs_and_leaves_nothing(
    shared: System, client: Client, file: Path, expected: Any, store: Any
) -> None:
    job = client.submit("digits", str(file), chunk_rows=CHUNK_ROWS, store=store)
    np.testing.assert_allclose(job.result(), expected, **CLOSE)
    wait_for_job(job)
    assert store_of(shared, job.id) == store
    assert not (shared.folder / "spool" / job.id).exists()
    shared.wait_until_nothing_is_left(job.id)


@pytest.mark.parametrize("store", ["redis", "files"])
def test_large_outputs_take_the_way_of_the_rows(shared: System, client: Client, store: Any) -> None:
    pairs = {"left": np.random.default_rng(4).random((9_000, 4), np.float32), "right": np.zeros((9_000, 3), np.int32)}
    job = client.submit("pair", pairs, chunk_rows=9_000, store=store)
    whole = job.result()
    halves = [
        client.predict("pair", {name: part[at] for name, part in pairs.items()})
        for at in (slice(4_500), slice(4_500, None))
    ]
    for name in ("wide", "narrow"):
        np.testing.assert_allclose(whole[name], np.concatenate([half[name] for half in halves]), **CLOSE)
    wait_for_job(job)
    assert list((shared.folder / "spool").iterdir()) == list((shared.folder / "spool").glob(".worker-*"))


def test_a_producer_without_the_spool_folder_gets_large_outputs_through_redis(
    shared: System, file: Path, expected: Any
) -> None:
    with Client(shared.url, settings=shared.settings()) as alone:
        job = alone.submit("digits", file, chunk_rows=len(ROWS), store="slices")  # outputs of 117 KiB
        np.testing.assert_allclose(job.result(), expected, **CLOSE)
        wait_for_job(job)
    assert not shared.resent(job.id)
    assert not (shared.folder / "spool" / job.id).exists()


def test_the_fastest_way_that_the_workers_reach_is_chosen(
    shared: System, client: Client, file: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "rows.npy"
    np.save(elsewhere, ROWS)
    alone = Client(shared.url, settings=shared.settings())
    chosen = {
        "a file under the roots": store_of(shared, finished(client.submit("digits", file))),
        "a file elsewhere": store_of(shared, finished(client.submit("digits", elsewhere))),
        "an array": store_of(shared, finished(client.submit("digits", ROWS))),
        "without a spool": store_of(shared, finished(alone.submit("digits", ROWS))),
    }
    assert list(chosen.values()) == ["slices", "files", "files", "redis"], chosen
    alone.close()


def test_a_way_that_cannot_be_had_is_refused_with_the_reason(shared: System, client: Client, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"its rows stand in no \.npy file"):
        client.submit("digits", ROWS, store="slices")
    np.save(tmp_path / "rows.npy", ROWS)
    with pytest.raises(UsageError, match="CELERIAC_DATA_ROOTS"):
        client.submit("digits", tmp_path / "rows.npy", store="slices")
    (tmp_path / "other").mkdir()
    other = shared.settings(spool=tmp_path / "other")
    with Client(shared.url, settings=other) as stranger, pytest.raises(UsageError, match="CELERIAC_SPOOL"):
        stranger.submit("digits", ROWS, store="files")


def test_a_link_out_of_the_roots_is_not_followed(shared: System, client: Client, tmp_path: Path) -> None:
    np.save(tmp_path / "secret.npy", ROWS)
    link = shared.folder / "data" / "link.npy"
    link.symlink_to(tmp_path / "secret.npy")
    with pytest.raises(UsageError, match="CELERIAC_DATA_ROOTS"):
        client.submit("digits", link, store="slices")


def test_a_file_that_shrinks_during_the_run_is_one_clear_error(shared: System, client: Client) -> None:
    path = shared.folder / "data" / "shrinks.npy"
    np.save(path, np.random.default_rng(5).random((200_000, 64), np.float32))
    job = client.submit("digits", path, chunk_rows=500, store="slices")
    parts = job.parts()
    next(parts)
    os.truncate(path, 100_000)
    with pytest.raises(Exception, match=r"shrinks\.npy|rows.*at fetch") as caught:
        for _ in parts:
            pass
    assert "\n" not in str(caught.value)
    wait_for_job(job)


def test_a_payload_that_a_worker_does_not_find_comes_again_through_redis(
    shared: System, client: Client, expected: Any
) -> None:
    spool = shared.folder / "spool"
    stop = threading.Event()

    def lose_payloads() -> None:
        lost = 0
        while not stop.is_set() and lost < 2:
            for path in spool.glob("*/rows-*"):
                path.unlink(missing_ok=True)
                lost += 1

    thief = threading.Thread(target=lose_payloads)
    thief.start()
    try:
        job = client.submit("digits", ROWS, chunk_rows=CHUNK_ROWS, store="files")
        np.testing.assert_allclose(job.result(), expected, **CLOSE)
    finally:
        stop.set()
        thief.join()
    job.ledger.check()


def test_a_spool_that_is_full_gives_way_to_redis(
    shared: System, client: Client, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tasks.transport.spool.write", full)
    np.testing.assert_allclose(client.predict("digits", ROWS, chunk_rows=CHUNK_ROWS, store="files"), expected, **CLOSE)


def test_rows_of_many_shapes_are_grouped_before_the_model_sees_them(system: System, special_models: Path) -> None:
    system.start_ready_worker(special_models / "mean.toml", 1)
    random = np.random.default_rng(6)
    rows = [random.random((length, 4), np.float32) for length in random.integers(1, 6, 50)]

    with Client(system.url) as client:
        predictions = client.predict("mean", iter(rows), chunk_rows=20)

    alone = np.concatenate([in_one_process(special_models / "mean.keras", row[None]) for row in rows])
    np.testing.assert_allclose(predictions, alone, **CLOSE)


def finished(job: Any) -> str:
    job.result()
    wait_for_job(job)
    return str(job.id)


def test_a_failure_of_rows_is_told_by_every_way(shared: System, client: Client) -> None:
    bad = {"left": np.zeros((50, 4), np.float32), "right": np.full((50, 3), 99, np.int32)}
    for store in ("redis", "files"):
        with pytest.raises(RowsFailedError, match=r"rows 0-50 failed at infer.*not in \[0, 10\)"):
            client.predict("pair", bad, chunk_rows=50, store=store)  # type: ignore[arg-type]


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_compressed_payloads_give_the_same_outputs(client: Client, expected: Any, compression: Any) -> None:
    predictions = client.predict("digits", ROWS, chunk_rows=CHUNK_ROWS, store="redis", compression=compression)
    np.testing.assert_allclose(predictions, expected, **CLOSE)


def test_a_redis_with_little_memory_is_never_filled(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("s")
    (folder / "narrows.py").write_text("def first(rows):\n    return rows[:, :10]\n")
    manifest = write_manifest(folder, {"first": "narrows:first"})
    server = RedisServer(folder, ("--maxmemory", "24mb", "--maxmemory-policy", "noeviction"))
    system = System(server.start(), folder)
    try:
        system.start_ready_worker(manifest, 1)
        rows = np.random.default_rng(7).random((200_000, 64), np.float32)  # 51 MB
        with Client(system.url) as client, system.admin() as redis:
            job = client.submit("first", rows, chunk_rows=8_000)
            peak = 0
            while not job.wait(timeout_seconds=0.01):
                peak = max(peak, redis.info("memory")["used_memory"])
            np.testing.assert_array_equal(job.result(), rows[:, :10])
            assert 0 < peak < 24 * 2**20
    finally:
        system.stop()


def test_outputs_that_are_gone_are_asked_for_again(shared: System, client: Client) -> None:
    pairs = {"left": np.random.default_rng(8).random((12_000, 4), np.float32), "right": np.zeros((12_000, 3), np.int32)}
    expected = client.predict("pair", pairs)
    stop = threading.Event()
    lost: list[Path] = []

    def lose_outputs() -> None:
        while not stop.is_set() and not lost:
            with suppress(FileNotFoundError):  # folders of jobs come and go
                for path in (shared.folder / "spool").glob("*/output-*"):
                    path.unlink()
                    lost.append(path)

    thief = threading.Thread(target=lose_outputs)
    thief.start()
    try:
        job = client.submit("pair", pairs, chunk_rows=4_000, store="files")
        predictions = job.result()
    finally:
        stop.set()
        thief.join()
    for name in ("wide", "narrow"):
        np.testing.assert_allclose(predictions[name], expected[name], **CLOSE)
    job.ledger.check()
