"""New versions of a model in a worker that runs: no chunk lost, one version to each job, `control` and SIGHUP."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from producer import Client, JobState
from producer.records import job_store
from producer.sources import from_rows
from tasks.preparation.model_set import pinned_models
from tasks.protocol import keys
from tasks.protocol.keys import JobField
from tasks.protocol.messages import ModelRef
from tests.forms import LONG
from tests.model_versions import digest_of, reload, write_version
from tests.seals import SEALER
from tests.systems import System
from tests.waiting import is_alive, wait_until

# `make chaos` asks for the long form.
CHANGES = 20 if LONG else 3


@pytest.fixture
def manifest(system: System) -> Path:
    write_version(system.folder / "times.keras", 1)
    path = system.folder / "models.toml"
    path.write_text('[models.times]\npath = "times.keras"\nprefer = "memory"\nbatch_rows = 16\n')
    return path


def test_versions_change_under_load_and_each_job_sees_one_of_them(system: System, manifest: Path) -> None:
    worker = system.start_ready_worker(manifest, 2)
    pids = {slot.pid for slot in system.slots()}
    wait_until(lambda: " ready." in worker.output(), "the worker takes commands")
    rows = np.random.default_rng(1).random((100, 4), np.float32)
    sums = rows.sum(axis=1, keepdims=True)
    digests = {digest_of(system)}
    enough = threading.Event()
    given = 0

    def endless() -> Iterator[np.ndarray]:
        nonlocal given
        while not enough.is_set():
            yield rows[given % 100]
            given += 1

    with Client(system.url) as client, ThreadPoolExecutor(1) as threads:
        long = client.submit("times", from_rows(endless(), batch_rows=16), chunk_rows=16)
        parts = threads.submit(lambda: [part.outputs for part in long.parts()])
        try:
            for number in range(2, CHANGES + 2):
                write_version(manifest.parent / "times.keras", number)
                reload(system, worker, by_signal=number % 5 > 0)
                digests.add(digest_of(system))
                before = long.progress().predicted
                job = client.submit("times", rows, chunk_rows=7)
                np.testing.assert_allclose(job.result(), number * sums, rtol=1e-5)
                assert job.digests == {"times": digest_of(system)}
                wait_until(
                    lambda so_far=before: long.state is not JobState.RUNNING or long.progress().predicted > so_far,
                    "the long job goes on",
                )
                assert long.state is JobState.RUNNING, long.progress()
        finally:
            enough.set()
        got = np.concatenate(parts.result())
    np.testing.assert_allclose(got, np.resize(sums, (given, 1)), rtol=1e-5)
    long.ledger.check()
    assert long.ledger.predicted == given > 100
    assert len(digests) == CHANGES + 1
    assert {slot.pid for slot in system.slots()} == pids, "no child was stopped"


def test_a_version_is_wanted_as_long_as_a_job_that_runs_began_with_it(system: System) -> None:
    with system.admin() as server:
        for job, digest in {"runs": "1" * 64, "ended": "2" * 64, "damaged": "3" * 64}.items():
            record = job_store.new_record(job, [ModelRef("times", digest)], "rows", "redis", 6)
            job_store.create(server, record, SEALER, 60)
            if job == "ended":
                job_store.finish(server, record, SEALER, JobState.DONE, 60)
        server.hset(keys.job("damaged"), JobField.RECORD, b"damaged")

        assert pinned_models(server, SEALER) == {"times@11111111"}


def test_a_replaced_child_serves_the_new_version_and_jobs_of_the_old_one(system: System, manifest: Path) -> None:
    worker = system.start_ready_worker(manifest, 1)
    wait_until(lambda: " ready." in worker.output(), "the worker takes commands")
    rows = np.ones((2_000, 4), np.float32)
    with Client(system.url) as client:
        old = client.submit("times", rows, chunk_rows=16)
        parts = old.parts()
        first = next(parts)
        write_version(manifest.parent / "times.keras", 3)
        reload(system, worker)
        (slot,) = system.slots()
        os.kill(slot.pid, signal.SIGKILL)
        wait_until(lambda: not is_alive(slot.pid) and system.slots(), "another child is in its place")

        np.testing.assert_allclose(client.predict("times", rows[:50]), 12.0)
        np.testing.assert_allclose(np.concatenate([part.outputs for part in [first, *parts]]), 4.0)


def test_what_cannot_be_reloaded_is_said_and_the_worker_goes_on(system: System, manifest: Path) -> None:
    worker = system.start_ready_worker(manifest, 1)
    wait_until(lambda: " ready." in worker.output(), "the worker takes commands")
    path, as_it_was = manifest.parent / "times.keras", manifest.read_text()

    def is_said(words: str) -> None:
        before = len(worker.output())
        os.kill(worker.pid, signal.SIGHUP)
        wait_until(lambda: words in worker.output()[before:], "the worker says what happened")
        with Client(system.url) as client:
            np.testing.assert_allclose(client.predict("times", np.ones((50, 4), np.float32)), 4.0)

    is_said("models reloaded: nothing has changed")
    manifest.write_text("models =")
    is_said("models are not reloaded: ConfigError: the manifest")
    manifest.write_text(as_it_was)
    path.write_bytes(b"no model")
    is_said("models are not reloaded: ModelLoadError: model times cannot be loaded from")
    path.unlink()
    is_said("models are not reloaded: ModelLoadError: model times cannot be loaded from")


def test_a_signal_that_comes_while_the_worker_starts_is_heeded_when_it_is_ready(system: System, manifest: Path) -> None:
    write_version(manifest.parent / "times.keras", 90)  # of which nobody has made a snapshot
    worker = system.start_worker(manifest, 1)

    def is_ready() -> bool:
        assert worker.process.poll() is None, worker.output()
        if has_begun := "making a snapshot" in worker.output():
            os.kill(worker.pid, signal.SIGHUP)
        return has_begun and " ready." in worker.output()

    wait_until(is_ready, "the worker is ready")
    wait_until(lambda: "models reloaded: nothing has changed" in worker.output(), "it has looked for other models")
    assert worker.output().count(" ready.") == 1


def test_models_may_come_and_go(system: System, manifest: Path) -> None:
    worker = system.start_ready_worker(manifest, 1)
    wait_until(lambda: " ready." in worker.output(), "the worker takes commands")
    shutil.copy(manifest.parent / "times.keras", manifest.parent / "other.keras")
    manifest.write_text('[models.other]\npath = "other.keras"\n')

    os.kill(worker.pid, signal.SIGHUP)

    wait_until(lambda: [info.name for info in system.slots()[0].models] == ["other"], "the other model is served")
    with Client(system.url) as client:
        np.testing.assert_allclose(client.predict("other", np.ones((50, 4), np.float32)), 4.0)


def test_a_higher_version_of_a_tree_is_taken(system: System, manifest: Path) -> None:
    tree = manifest.parent / "tree"
    (tree / "1").mkdir(parents=True)
    (manifest.parent / "times.keras").rename(tree / "1" / "times.keras")
    manifest.write_text('[models.times]\npath = "tree"\nprefer = "memory"\n')
    worker = system.start_ready_worker(manifest, 1)
    wait_until(lambda: " ready." in worker.output(), "the worker takes commands")
    (manifest.parent / "new").mkdir()
    write_version(manifest.parent / "new" / "times.keras", 3)
    (manifest.parent / "new").rename(tree / "2")

    reload(system, worker, by_signal=True)

    with Client(system.url) as client:
        np.testing.assert_allclose(client.predict("times", np.ones((50, 4), np.float32)), 12.0)


def test_a_worker_of_functions_has_no_tensorflow_until_a_reload_brings_a_model_of_it(
    system: System, manifest: Path
) -> None:
    (manifest.parent / "plain.py").write_text("def double(rows):\n    return rows * 2\n")
    functions = '[models.double]\npath = "plain:double"\n'
    times = f"{manifest.read_text()}independent_rows = false\n"  # its own graph runs it, which is TensorFlow's
    manifest.write_text(functions)
    worker = system.start_ready_worker(manifest, 1, fresh=True)
    wait_until(lambda: " ready." in worker.output(), "the worker takes commands")
    (slot,) = system.slots()
    rows = np.ones((50, 4), np.float32)
    with Client(system.url) as client:
        np.testing.assert_array_equal(client.predict("double", rows), rows * 2)
        for pid in (worker.pid, slot.pid):
            assert "libtensorflow" not in Path(f"/proc/{pid}/maps").read_text()

        manifest.write_text(functions + times)
        os.kill(worker.pid, signal.SIGHUP)
        wait_until(
            lambda: [{info.name for info in slot.models} for slot in system.slots()] == [{"double", "times"}],
            "both are served",
        )

        np.testing.assert_allclose(client.predict("times", rows), 4.0)
        np.testing.assert_array_equal(client.predict("double", rows), rows * 2)
    assert "libtensorflow" in Path(f"/proc/{worker.pid}/maps").read_text()
    assert slot.pid not in {one.pid for one in system.slots()}, "a child forked with TensorFlow is in its place"
