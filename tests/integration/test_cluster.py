"""Several workers on one Redis share a job, and Celery's own tools and Flower show its chunks in words."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import urllib.error
import urllib.request
import uuid
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from producer import Client, Job
from tasks.protocol.rights import OPERATOR
from tests.held import held_child, held_children, holding, write_held_models
from tests.manifests import write_manifest
from tests.ports import free_port
from tests.systems import BIN, System, serving
from tests.waiting import is_alive, wait_until

ROWS = np.arange(48, dtype=np.float32).reshape(12, 4)
# By which a worker finds out whether anybody listens.
NO_EVENTS = b64encode(b"[]").decode()
IN_WORDS = re.compile(r"chunk (\d+)(?:/(\d+))? rows (\d+)-(\d+) of job [0-9a-f]{12}, held@[0-9a-f]{8}")


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[System]:
    """Two workers, started by hand and named, each with one child; one of their models is of TensorFlow."""
    folder = tmp_path_factory.mktemp("s")
    manifest = write_manifest(folder, {**write_held_models(folder), "digits": models / "digits.keras"})
    with serving(folder) as system:
        for name in ("one", "two"):
            system.start_worker(manifest, 1, "-n", f"{name}@%h")
        wait_until(lambda: len(system.slots()) == 2, "both workers' children are ready")
        for worker in system.workers:
            wait_until(lambda worker=worker: " ready." in worker.output(), "the worker takes chunks")
        yield system


@pytest.fixture
def client(two_workers: System) -> Iterator[Client]:
    with Client(two_workers.url) as client:
        yield client


def test_two_workers_share_a_job(two_workers: System, client: Client) -> None:
    names = {slot.worker.partition(":")[0] for slot in two_workers.slots()}
    assert names == {f"one@{socket.gethostname()}", f"two@{socket.gethostname()}"}

    with holding(two_workers.folder, 42):
        job = client.submit("held", rows := np.full_like(ROWS, 42), chunk_rows=1)
        wait_until(lambda: len(held_children(two_workers.folder)) == 2, "each worker runs a chunk")
    np.testing.assert_array_equal(job.result(), rows * 2)
    job.ledger.check()

    def chunks_of_each() -> list[list[int]]:
        return [_chunks_run(worker.output(), job) for worker in two_workers.workers]

    # A worker writes its log after its child has answered.
    wait_until(lambda: len(set().union(*chunks_of_each())) == 12, "the logs tell of every chunk")
    ran = chunks_of_each()
    assert all(ran), "each worker ran a part"
    assert sum(map(len, ran)) <= 12 + job.ledger.chunks_sent_again, "no chunk ran twice but those that were late"


def test_a_log_tells_of_every_chunk_in_words_and_nothing_of_tensorflow_s_start(
    two_workers: System, client: Client
) -> None:
    job = client.submit("held", ROWS[:2], chunk_rows=1)
    job.result()

    def lines(word: str) -> list[str]:
        texts = [worker.output() for worker in two_workers.workers]
        return [line for text in texts for line in text.splitlines() if word in line and job.id in line]

    wait_until(lambda: len(lines(" succeeded in ")) == 2, "the logs tell of every chunk")
    assert len([line for line in lines(" received: ") if IN_WORDS.search(line)]) == 2
    told = "".join(worker.output() for worker in two_workers.workers)
    for word in ("oneDNN", "InitializeLog", "cuda", "cuInit", "XNNPACK", "AVX"):
        assert word not in told


def test_workers_of_one_name_both_count(system: System) -> None:
    manifest = write_manifest(system.folder, write_held_models(system.folder))
    for _ in range(2):
        system.start_ready_worker(manifest, 1)

    slots = system.slots()
    assert len({slot.worker for slot in slots}) == 2
    assert len({slot.worker.partition(":")[0] for slot in slots}) == 1
    with Client(system.url) as client:
        job = client.submit("held", np.zeros((100, 4), np.float32), chunk_rows=1)
        assert np.shape(job.result()) == (100, 4)
        assert job.progress().slots == 2


def test_status_lists_both_workers(two_workers: System) -> None:
    ended = two_workers.celery("status")

    assert ended.returncode == 0, ended.stderr
    assert "one@" in ended.stdout
    assert "two@" in ended.stdout
    assert "2 nodes online" in ended.stdout


def test_inspect_active_shows_the_chunks_that_run(two_workers: System, client: Client) -> None:
    with holding(two_workers.folder, ROWS[0, 0]):
        job = client.submit("held", ROWS[:1])
        wait_until(lambda: held_child(two_workers.folder), "a child runs the chunk")
        ended = two_workers.celery("inspect", "active", "--json")

    assert ended.returncode == 0, ended.stderr
    active = json.loads(ended.stdout)
    assert len(active) == 2
    assert {task["name"] for tasks in active.values() for task in tasks} == {"celeriac.infer"}
    assert job.id in ended.stdout
    np.testing.assert_array_equal(job.result(), ROWS[:1] * 2)


def test_events_tell_of_chunks_in_words(two_workers: System, client: Client) -> None:
    with _command(two_workers, "events", "--dump") as output:
        # Nobody says when the listening has begun: run jobs until something is heard.
        def heard() -> list[str]:
            client.predict("held", ROWS[:2], chunk_rows=1)
            return [line for line in output().splitlines() if "celeriac.infer" in line and IN_WORDS.search(line)]

        lines = wait_until(heard, "an event tells of a chunk")
    assert any("rows 0-1" in line or "rows 1-2" in line for line in lines)


def test_workers_tell_of_tasks_only_while_somebody_listens(two_workers: System, client: Client) -> None:
    with _watched_publishing(two_workers) as published:

        def published_for_a_job() -> int:
            published()
            client.predict("held", ROWS, chunk_rows=1)
            return published()

        wait_until(lambda: not published_for_a_job(), "nobody listens any more")
        with _command(two_workers, "events", "--dump") as output:
            wait_until(lambda: "heartbeat" in output(), "somebody listens")
            # One worker may run all chunks before the other one's heartbeat.
            wait_until(published_for_a_job, "workers tell of tasks")
            wait_until(lambda: "celeriac.infer" in output(), "it hears of a chunk")
        wait_until(lambda: not published_for_a_job(), "nobody listens any more")


def test_a_chunk_that_is_sent_again_keeps_its_words(two_workers: System, client: Client) -> None:
    with _command(two_workers, "events", "--dump") as output:
        names = {slot.worker.partition(":")[0] for slot in two_workers.slots()}

        def heard() -> bool:
            """Whether each worker knows by now that somebody listens."""
            client.submit("held", ROWS, chunk_rows=1).result()
            return all(re.search(rf"^{re.escape(name)} .*task received", output(), re.MULTILINE) for name in names)

        wait_until(heard, "each worker tells of its tasks")
        before = two_workers.slots()
        with holding(two_workers.folder, ROWS[5, 0]):
            job = client.submit("held", ROWS, chunk_rows=1)
            victim = wait_until(lambda: held_child(two_workers.folder), "a child runs a chunk")
            os.kill(victim, signal.SIGKILL)
            wait_until(lambda: not is_alive(victim), "the child is dead")

        np.testing.assert_array_equal(job.result(), ROWS * 2)

        def received() -> dict[str, list[str]]:
            """The words by task; a task that is sent again keeps its id."""
            found: dict[str, list[str]] = {}
            for line in output().splitlines():
                if "task received" in line and job.id in line:
                    task = re.search(r"\(([0-9a-f-]{36})\)", line)
                    assert task, line
                    words = IN_WORDS.search(line)
                    found.setdefault(task[1], []).append(words[0] if words else line)
            return found

        again = wait_until(
            lambda: [words for words in received().values() if len(words) > 1], "a chunk is received a second time"
        )
    for words in again:
        assert IN_WORDS.fullmatch(words[0])
        assert len(set(words)) == 1
    wait_until(lambda: len(two_workers.slots()) == 2 and two_workers.slots() != before, "another child is in its place")


def test_flower_lists_chunks_in_words(two_workers: System, client: Client) -> None:
    port = free_port()
    options = ("flower", f"--port={port}", "--address=127.0.0.1")
    with _command(two_workers, *options, FLOWER_UNAUTHENTICATED_API="true") as output:
        tasks_url = f"http://127.0.0.1:{port}/api/tasks"
        wait_until(lambda: _get(tasks_url) is not None, "Flower answers")

        def listed() -> list[dict[str, Any]]:
            client.predict("held", ROWS[:2], chunk_rows=1)
            # Of tasks that were on their way before it listened, Flower knows little.
            return [task for task in _get(tasks_url).values() if task["received"]]

        tasks = wait_until(listed, f"Flower lists tasks; it says: {output()}")
    for task in tasks:
        assert task["name"] == "celeriac.infer"
        assert IN_WORDS.search(task["args"]), task["args"]


@contextmanager
def _watched_publishing(system: System) -> Iterator[Callable[[], int]]:
    """How many times workers have told of tasks since it was last asked, as Redis sees it: a listener would be told."""
    with system.admin() as server, system.admin() as asked, asked.monitor() as monitor:

        def published() -> int:
            count, end = 0, uuid.uuid4().hex
            server.echo(end)
            while end not in (command := monitor.next_command()["command"]):
                count += command.startswith("PUBLISH") and "celeryev/task." in command and NO_EVENTS not in command
            return count

        yield published


@contextmanager
def _command(system: System, *words: str, **environ: str) -> Iterator[Callable[[], str]]:
    """A Celery command that goes on until the block ends; gives what it has printed so far."""
    path = system.folder / f"{words[0]}.log"
    with path.open("wb") as log:
        process = subprocess.Popen(
            [str(BIN / "celery"), "-A", "tasks", *words],
            env=system.environ(PYTHONUNBUFFERED="1", CELERIAC_BROKER_URL=system.redis.url_as(OPERATOR), **environ),
            cwd=system.folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield path.read_text
    finally:
        process.kill()
        process.wait()


def _get(url: str) -> Any:
    """What a Flower says; None while it does not answer."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310
            return json.load(answer)
    except (urllib.error.URLError, ConnectionError):
        return None


def _chunks_run(log: str, job: Job) -> list[int]:
    """The indexes of a job's chunks that this worker says to have run."""
    lines = [line for line in log.splitlines() if " succeeded in " in line and job.id in line]
    return [int(words[1]) for line in lines if (words := IN_WORDS.search(line))]
