"""A worker that prepares its models is seen and waited for; one that ends meanwhile is not."""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from subprocess import run

import numpy as np
import pytest

from producer import AsyncClient, Client
from producer.scheduling import preparing_workers
from tasks.models.model_version import entry_digest
from tasks.protocol import keys
from tasks.protocol.preparing import Preparing
from tasks.snapshots.cache import cache_key
from tasks.transport.worker_registry import read_all
from tests.manifests import write_manifest
from tests.models import in_one_process
from tests.systems import SECURED, System, Worker
from tests.waiting import descendants_of, is_alive, wait_for_exit, wait_until
from worker_config.errors import ExitCode, NoWorkerError, RequestTimeoutError
from worker_config.manifest import read_manifest

WAITS = "waiting for another process to prepare digits"
TOLD = f"is preparing digits, second: {WAITS} (0 of 2 models done), for "
NO_WORKER = "no worker is up; start one with"


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(1).random((40, 64), np.float32)


@pytest.fixture
def manifest(system: System, models: Path) -> Path:
    shutil.copy(models / "digits.keras", system.folder)
    return write_manifest(system.folder, {"digits": "digits.keras", "second": models / "pair.keras"})


@contextmanager
def held_up(
    system: System, manifest: Path, doing: str = WAITS, **environ: str
) -> Iterator[tuple[Worker, Callable[[], None]]]:
    """A worker that prepares `digits` for as long as the test wants: until the function that is given is called.

    It waits for the lock of the snapshot, as it would for another worker that makes it; `doing` is what it tells.
    """
    cache = system.folder / "cache"
    cache.mkdir(exist_ok=True)
    entry = read_manifest(manifest)["digits"]
    with (cache / f"{cache_key(entry_digest(entry), entry, version('tensorflow'))}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        worker = system.start_worker(manifest, 1, environ={"CELERIAC_CACHE": str(cache), **environ})

        def waits() -> bool:
            assert worker.process.poll() is None, worker.output()
            return any(one.doing.startswith(doing) for one in preparing(system).values())

        wait_until(waits, "the worker tells what it does")
        yield worker, lambda: fcntl.flock(lock, fcntl.LOCK_UN)


def preparing(system: System) -> dict[str, Preparing]:
    with system.admin() as client:
        return read_all(client)[1]


def records(system: System) -> list[bytes]:
    with system.admin() as client:
        return list(client.scan_iter(keys.worker("*")))


@pytest.fixture(autouse=True)
def told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparing_workers, "TELL_AFTER_SECONDS", 0.0)


def test_whoever_asks_for_a_model_waits_for_the_worker_that_prepares_it_and_says_so(
    system: System, manifest: Path, models: Path, pixels: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    expected = in_one_process(models / "digits.keras", pixels)
    answers: dict[str, object] = {}

    async def ask_async() -> None:
        async with AsyncClient(system.url, worker_timeout_seconds=0.1, settings=system.settings()) as client:
            answers["async"] = await client.predict("digits", pixels)

    with held_up(system, manifest) as (worker, go_on), Client(system.url, worker_timeout_seconds=0.1) as client:
        asking = [
            threading.Thread(target=lambda: answers.update(request=client.predict("digits", pixels))),
            threading.Thread(target=lambda: answers.update(job=client.submit("digits", pixels).result())),
            threading.Thread(target=asyncio.run, args=(ask_async(),)),
        ]
        with caplog.at_level(logging.WARNING, "producer.scheduling.preparing_workers"):
            for thread in asking:
                thread.start()
            with pytest.raises(RequestTimeoutError, match=f"time limit is up; worker celery@.* {WAITS}"):
                client.predict("digits", pixels, timeout_seconds=1)
            with pytest.raises(RequestTimeoutError, match=f"time limit is up; worker celery@.* {WAITS}"):
                client.predict("digits", pixels, chunk_rows=7, timeout_seconds=0.5)
            wait_until(lambda: TOLD in caplog.text, "it is told")
        with pytest.raises(NoWorkerError, match=f"{NO_WORKER}.*; worker celery@.* is preparing digits, second: "):
            client.predict("third", pixels)
        with (
            Client(system.url, worker_timeout_seconds=0) as hasty,
            pytest.raises(NoWorkerError, match=f"{NO_WORKER}.*; worker celery@.* is preparing digits, second: "),
        ):
            hasty.predict("digits", pixels)
        assert all(thread.is_alive() for thread in asking)
        announcers = descendants_of(worker.pid)
        assert len(announcers) == 1

        go_on()
        for thread in asking:
            thread.join(120)
        wait_until(lambda: not preparing(system), "it prepares no more")
        wait_until(lambda: not is_alive(announcers[0]), "its announcer has ended")

    for answer in (answers["request"], answers["job"], answers["async"]):
        np.testing.assert_allclose(answer, expected, rtol=1e-5, atol=1e-6)
    # What it told is gone, too, and not only hidden by its slot.
    fields = {b"main", b"0"}
    wait_until(lambda: {name for key in records(system) for name in _fields(system, key)} == fields, "it is up")


def test_commands_show_a_worker_that_prepares(system: System, manifest: Path, models: Path, pixels: np.ndarray) -> None:
    url = system.url
    with Client(url) as client:
        first = system.start_ready_worker(manifest, 1)
        np.save(system.folder / "rows.npy", pixels)
        os.killpg(first.pid, signal.SIGSTOP)
        job = client.submit("digits", pixels, chunk_rows=10, detach=True)
        first.stop()
        wait_until(lambda: not records(system), "its record has expired")
        with held_up(system, manifest):
            ready = system.celeriac("models", "--broker", url)
            assert TOLD in ready.stdout
            assert ready.stdout.count("\n") == 1
            (told,) = json.loads(system.celeriac("models", "--broker", url, "--json").stdout)["preparing"].values()
            assert (told["doing"], told["done"], list(told["models"])) == (WAITS, 0, ["digits", "second"])
            assert len(told["models"]["digits"]) == 64

            assert TOLD in system.celeriac("status", job, "--broker", url).stdout
            assert TOLD in json.loads(system.celeriac("status", job, "--broker", url, "--json").stdout)["preparing"]

            assert not SECURED or system.redis.refused() == []
            doctor = system.celeriac("doctor", "--broker", url, "--json")
            with system.admin() as admin:  # it has tried the rights of all roles
                admin.acl_log_reset()
            assert doctor.returncode == 0, doctor.stdout
            (found,) = (one for one in json.loads(doctor.stdout)["findings"] if one["check"] == "workers")
            assert found["level"] == "warning"
            assert TOLD in found["found"]

            command = [sys.executable, "-m", "tasks.health", "--broker", system.environ()["CELERIAC_BROKER_URL"]]
            for options, code in ((), 0), (("--start-seconds", "0"), 1):
                health = run([*command, *options], capture_output=True, text=True, env=system.environ(), check=False)
                assert health.returncode == code, health.stdout
                assert f"{WAITS} (0 of 2 models done), for " in health.stdout

            waits = system.celeriac(
                *("predict", "digits", "rows.npy", "-o", "out.npy", "--worker-timeout-seconds", "0", "--broker", url)
            )
            assert waits.returncode == ExitCode.NO_WORKER
            assert NO_WORKER in waits.stderr
            assert TOLD in waits.stderr


@pytest.mark.parametrize("killed", ["its main process", "all of it"])
def test_a_worker_that_is_killed_as_it_prepares_is_no_longer_waited_for(
    system: System, manifest: Path, pixels: np.ndarray, killed: str
) -> None:
    with held_up(system, manifest) as (worker, _), Client(system.url, worker_timeout_seconds=0.1) as client:
        errors: list[BaseException] = []

        def ask() -> None:
            try:
                client.predict("digits", pixels)
            except NoWorkerError as error:
                errors.append(error)

        asking = threading.Thread(target=ask)
        asking.start()
        with pytest.raises(RequestTimeoutError):
            client.predict("digits", pixels, timeout_seconds=0.5)
        if killed == "all of it":
            worker.stop()
        else:
            os.kill(worker.pid, signal.SIGKILL)
            wait_for_exit(worker.process)
            with system.admin() as server:  # nobody has to wait for the record to expire
                for record in records(system):
                    server.persist(record)
        asking.join(120)

        assert f"{NO_WORKER} `celeriac worker`" in str(errors[0])
        assert "; one that was to hold them is gone: worker celery@" in str(errors[0])
        assert TOLD in str(errors[0])
        assert not records(system)


def test_a_worker_that_cannot_prepare_its_models_takes_back_what_it_told(system: System, manifest: Path) -> None:
    (system.folder / "digits.keras").write_bytes(b"no model")
    with held_up(system, manifest) as (worker, go_on):
        go_on()
        assert wait_for_exit(worker.process) == ExitCode.MODEL

        assert not records(system)


def test_a_job_waits_for_a_worker_that_prepares_its_models_anew(
    system: System, manifest: Path, models: Path, pixels: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    first = system.start_ready_worker(manifest, 1)
    with Client(system.url, worker_timeout_seconds=1) as client:
        os.killpg(first.pid, signal.SIGSTOP)
        job = client.submit("digits", pixels, chunk_rows=10)
        with held_up(system, manifest) as (_, go_on):
            first.stop()
            with caplog.at_level(logging.WARNING, "producer.scheduling.preparing_workers"):
                wait_until(lambda: f"job {job.id} waits: worker celery@" in caplog.text, "the job waits")
            before = time.monotonic()
            wait_until(lambda: time.monotonic() - before > 3, "it would have ended without")
            assert not job.wait(0.1)
            go_on()
            np.testing.assert_allclose(
                job.result(), in_one_process(models / "digits.keras", pixels), rtol=1e-5, atol=1e-6
            )


def _fields(system: System, key: bytes) -> list[bytes]:
    with system.admin() as client:
        return list(client.hkeys(key))


def test_missing_snapshots_are_made_side_by_side(system: System, manifest: Path, models: Path) -> None:
    cache, cores = system.folder / "cache", len(os.sched_getaffinity(0))
    if cores < 2:
        pytest.skip("there is one core")
    # The largest is the first, so that one by one the others would wait for it.
    paths = {"second": models / "digits.h5", "digits": models / "digits_saved", "third": models / "pair.keras"}
    write_manifest(system.folder, paths)
    now = "making 3 snapshots, now of digits"
    with held_up(system, manifest, f"{now}, ", CELERIAC_INTRA_OP_THREADS="1") as (worker, go_on):
        wait_until(lambda: [told.doing for told in preparing(system).values()] == [now], "the others are made")
        assert len(list(cache.glob("*/snapshot.json"))) == 2
        go_on()
        wait_until(lambda: system.slots() or worker.process.poll(), "the child is ready")

    (slot,) = system.slots()
    assert [info.name for info in slot.models] == [*paths]
    said = [line for line in worker.output().splitlines() if "making a snapshot" in line]
    unfinished = ", which another worker did not finish"
    assert sorted(line.removesuffix(unfinished) for line in said) == [
        f"model {name}: making a snapshot, once" for name in sorted(paths)
    ]


def test_a_broken_model_beside_others_ends_the_worker_with_its_own_line(
    system: System, manifest: Path, models: Path
) -> None:
    (system.folder / "broken.keras").write_bytes(b"no model")
    write_manifest(system.folder, {"digits": "digits.keras", "broken": "broken.keras"})

    worker = system.start_worker(
        manifest, 1, environ={"CELERIAC_CACHE": str(system.folder / "cache"), "CELERIAC_INTRA_OP_THREADS": "1"}
    )

    assert wait_for_exit(worker.process) == ExitCode.MODEL, worker.output()
    (line,) = [line for line in worker.output().splitlines() if line.startswith("celeriac: ")]
    assert line.startswith(f"celeriac: model broken cannot be loaded from {system.folder}/broken.keras: ")
    assert not records(system)
