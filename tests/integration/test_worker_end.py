"""Workers that are asked to end by SIGTERM: what runs is finished, the rest is handed back at once, nothing is lost."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from tasks.protocol import keys
from tasks.protocol.messages import Outputs
from tests.chunks import Chunks, chunks_of, outputs_of
from tests.manifests import write_manifest
from tests.systems import System, Worker
from tests.waiting import descendants_of, is_alive, take, wait_for_exit, wait_until
from worker_config.celery_app import celery_settings
from worker_config.retry_policy import HEARTBEAT_SECONDS
from worker_config.settings import Settings

JOB = "00000000feed"
CHUNKS = 8
MODEL = """
import os
import time

def gated(rows):
    # Chunk N goes on when the test has made the file N.
    while not os.path.exists(str(int(rows[0, 0]))):
        time.sleep(0.01)
    return rows * 2
"""


@pytest.fixture
def manifest(system: System) -> Path:
    (system.folder / "gated_model.py").write_text(MODEL)
    return write_manifest(system.folder, {"gated": {"path": "gated_model:gated", "batch_rows": 4}})


@pytest.fixture
def chunks(system: System, manifest: Path) -> Iterator[Chunks]:
    start(system, manifest, "a")
    with chunks_of(system, JOB) as chunks:
        yield chunks


def start(system: System, manifest: Path, name: str, **environ: str) -> Worker:
    """A worker with a temporary folder of its own, beside its log."""
    temporary = system.folder / f"worker{len(system.workers)}.tmp"
    temporary.mkdir()
    environ["TMPDIR"] = str(temporary)
    worker = system.start_ready_worker(manifest, 1, "-n", f"{name}@%h", environ=environ)
    wait_until(lambda: " ready." in worker.output(), "the worker takes chunks")
    return worker


def rows_of(index: int) -> np.ndarray:
    return np.full((3, 2), index, np.float32)


def send_all(chunks: Chunks) -> None:
    chunks.send(*[chunks.message("gated", rows_of(i), index=i, start=3 * i, on_error="raise") for i in range(CHUNKS)])


def waiting(chunks: Chunks) -> int:
    """Chunks that no worker has in its hands."""
    return cast("int", chunks.server.llen(keys.queue(chunks.queue)))


def begun(chunks: Chunks) -> set[int]:
    return {int(name) for name in chunks.noted() if name.isdigit()}


def ends_well(worker: Worker, children: list[int]) -> None:
    assert wait_for_exit(worker.process) == 0, worker.output()
    wait_until(lambda: not any(map(is_alive, children)), "its children are gone")
    assert list(worker.log.with_suffix(".tmp").iterdir()) == []


def test_a_worker_that_is_killed_leaves_one_folder_which_the_next_one_removes(system: System, manifest: Path) -> None:
    worker = start(system, manifest, "a")
    children = descendants_of(worker.pid)
    os.killpg(worker.pid, signal.SIGKILL)
    wait_until(lambda: not any(map(is_alive, [worker.pid, *children])), "the worker and its children are dead")
    temporary = worker.log.with_suffix(".tmp")
    (left,) = temporary.iterdir()
    system.start_ready_worker(manifest, 1, "-n", "b@%h", environ={"TMPDIR": str(temporary)})
    (own,) = temporary.iterdir()
    assert own != left


@pytest.mark.parametrize("environ", [{}, {"REMAP_SIGTERM": "SIGQUIT"}], ids=["by itself", "with REMAP_SIGTERM"])
def test_a_rolling_restart_costs_no_chunk_and_no_waiting(
    system: System, manifest: Path, chunks: Chunks, environ: dict[str, str]
) -> None:
    send_all(chunks)
    answers: dict[int, Any] = {}
    worker = system.workers[0]
    for name in "bc":
        (running,) = wait_until(lambda: begun(chunks), "a chunk runs")
        children = descendants_of(worker.pid)
        os.kill(worker.pid, signal.SIGTERM)
        wait_until(lambda: waiting(chunks) == CHUNKS - len(answers) - 1, "what it has not begun is back at once")
        assert worker.process.poll() is None, "it finishes what runs"
        (system.folder / str(running)).touch()
        ends_well(worker, children)
        answers[running] = chunks.next_answer()
        worker = start(system, manifest, name, **environ)

    for index in range(CHUNKS):
        (system.folder / str(index)).touch()
    while len(answers) < CHUNKS:
        answer = chunks.next_answer()
        assert answer.index not in answers, "no chunk is run twice"
        answers[answer.index] = answer
    for index, answer in answers.items():
        assert answer.index == index
        np.testing.assert_array_equal(outputs_of(answer), rows_of(index) * 2)
    assert chunks.noted() == {}
    assert not chunks.server.llen(keys.results(JOB))


def test_what_does_not_end_in_time_is_handed_back_and_nobody_is_blamed(
    system: System, manifest: Path, chunks: Chunks
) -> None:
    worker = system.workers[0]
    children = descendants_of(worker.pid)
    chunks.send(chunks.message("gated", rows_of(0)))
    wait_until(lambda: begun(chunks), "the chunk runs")

    os.kill(worker.pid, signal.SIGTERM)

    ends_well(worker, children)
    assert waiting(chunks) == 1
    assert b"0:deaths" not in chunks.noted()
    (system.folder / "0").touch()
    start(system, manifest, "b")
    answer = chunks.next_answer()
    np.testing.assert_array_equal(outputs_of(answer), rows_of(0) * 2)
    assert isinstance(answer, Outputs)
    assert chunks.noted() == {}


def test_a_worker_that_has_said_that_it_ends_does_not_come_back(system: System, manifest: Path, chunks: Chunks) -> None:
    worker = system.workers[0]
    send_all(chunks)
    (running,) = wait_until(lambda: begun(chunks), "a chunk runs")
    os.kill(worker.pid, signal.SIGTERM)
    wait_until(lambda: waiting(chunks) == CHUNKS - 1, "it ends when the chunk is done")
    os.kill(worker.pid, signal.SIGTERM)  # impatient: it says at once that it ends
    wait_until(lambda: not system.slots(), "its slot is gone")
    take(HEARTBEAT_SECONDS + 1)  # until it would have told that it lives
    assert worker.process.poll() is None
    assert not system.slots()
    (system.folder / str(running)).touch()
    wait_for_exit(worker.process)
    assert not system.slots()


def test_the_time_to_finish_is_bounded() -> None:
    assert 0 < celery_settings(Settings())["worker_soft_shutdown_timeout"] <= 20


def test_a_worker_without_redis_ends_too(system: System, manifest: Path) -> None:
    worker = start(system, manifest, "a")
    system.redis.stop()
    wait_until(lambda: "onnection to broker lost" in worker.output(), "the worker has noticed")
    os.kill(worker.pid, signal.SIGTERM)
    wait_for_exit(worker.process)
