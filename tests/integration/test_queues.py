"""Workers with different model sets on one Redis: a chunk goes to those alone that hold its models, in its versions."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

from producer import Client
from producer.sources import BatchSource, from_rows
from tasks.protocol import keys
from tasks.transport import queues
from tests import systems
from tests.forms import LONG, in_long_form
from tests.held import held_children, holding, write_held_models
from tests.manifests import write_manifest
from tests.models import in_one_process, keras_may_warn
from tests.systems import BIN, System, Worker, serving
from tests.waiting import descendants_of, is_alive, wait_until
from worker_config.broker import KEY_PREFIX, QUEUE, queue_of
from worker_config.errors import ExitCode, NoWorkerError, UnknownModelError
from worker_config.retry_policy import QUEUE_TTL_SECONDS

CLOSE = {"rtol": 1e-5, "atol": 1e-6}
ROWS = np.arange(96, dtype=np.float32).reshape(24, 4)
PIXELS = np.random.default_rng(1).random((200, 64), np.float32)
PAIRS = {"left": ROWS, "right": np.random.default_rng(2).integers(0, 10, (24, 3), np.int32)}
# Nothing here may wait for a worker that is not to come.
FOR_EVER = 600.0


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Path:
    """Two models of TensorFlow, and a function that can be held."""
    folder = tmp_path_factory.mktemp("sets")
    paths = {"digits": models / "digits.keras", "pair": models / "pair.keras"}
    return write_manifest(folder, {**paths, **write_held_models(folder)})


@pytest.fixture(scope="module")
def two_sets(tmp_path_factory: pytest.TempPathFactory, manifest: Path) -> Iterator[System]:
    """Two workers, each with one child: `one` has the models digits and held, `two` has pair and held."""
    folder = tmp_path_factory.mktemp("s")
    with serving(folder) as system:
        start(system, manifest, "one", "digits,held")
        start(system, manifest, "two", "pair,held")
        yield system


@pytest.fixture
def client(two_sets: System) -> Iterator[Client]:
    with Client(two_sets.url, worker_timeout_seconds=FOR_EVER) as client:
        yield client


@pytest.fixture
def server(two_sets: System) -> Iterator[redis.Redis]:
    with two_sets.admin() as server:
        yield server


def start(system: System, manifest: Path, name: str, model_set: str = "", children: int = 1) -> Worker:
    """Start a worker of that name and wait until it takes chunks."""
    write_held_models(system.folder)  # a worker looks for functions where it was started
    worker = system.start_worker(manifest, children, "-n", f"{name}@%h", environ={"CELERIAC_MODEL_SET": model_set})
    wait_until(lambda: worker.process.poll() is not None or " ready." in worker.output(), "the worker takes chunks")
    assert worker.process.poll() is None, worker.output()
    return worker


def chunks_run(worker: Worker, job_id: str) -> int:
    """How many of a job's chunks this worker says to have run."""
    return len([line for line in worker.output().splitlines() if " succeeded in " in line and job_id in line])


def kill(worker: Worker) -> None:
    processes = [worker.pid, *descendants_of(worker.pid)]
    worker.stop()
    wait_until(lambda: not any(map(is_alive, processes)), "the worker and its child are dead")


@contextmanager
def until_told(row: np.ndarray) -> Iterator[tuple[BatchSource, Callable[[], None]]]:
    """Rows without end, until the function is called."""
    told = threading.Event()

    def endless() -> Iterator[np.ndarray]:
        while not told.is_set():
            yield row

    try:
        # One by one: else many are read ahead.
        yield from_rows(endless(), batch_rows=1), told.set
    finally:
        told.set()


# --- which queue ----------------------------------------------------------------------------------------------------


def test_jobs_go_to_the_worker_that_holds_their_model(two_sets: System, client: Client, models: Path) -> None:
    digits, pair = client.submit("digits", PIXELS, chunk_rows=20), client.submit("pair", PAIRS, chunk_rows=2)
    np.testing.assert_allclose(digits.result(), in_one_process(models / "digits.keras", PIXELS), **CLOSE)
    outputs: Any = pair.result()
    for name, expected in in_one_process(models / "pair.keras", PAIRS).items():
        np.testing.assert_allclose(outputs[name], expected, **CLOSE)
    one, two = two_sets.workers
    wait_until(lambda: chunks_run(one, digits.id) == 10, "the log tells of every chunk")
    wait_until(lambda: chunks_run(two, pair.id) == 12, "the log tells of every chunk")
    assert (digits.progress().slots, pair.progress().slots) == (1, 1)


def test_models_that_no_worker_holds_together_are_told_at_once_with_who_holds_what(client: Client) -> None:
    host = socket.gethostname()
    told = f"no worker holds digits and pair together: one@{host} holds digits, two@{host} holds pair"
    for submit in (client.submit, client.digests):
        arguments = (["digits", "pair"], PIXELS)[: 1 if submit == client.digests else 2]
        with pytest.raises(NoWorkerError, match=told):
            submit(*arguments)
        with pytest.raises(UnknownModelError, match="no worker holds model 'nobody'; there are: digits, held, pair"):
            submit("nobody", *arguments[1:])


@pytest.mark.parametrize(
    "detach", [False, True] if LONG else [False], ids=lambda detach: "detached" if detach else "attached"
)
def test_a_job_uses_every_worker_that_holds_its_model(two_sets: System, client: Client, detach: bool) -> None:
    rows = np.full_like(ROWS, 42)
    with holding(two_sets.folder, 42):
        job: Any = client.submit("held", rows, chunk_rows=1, detach=detach)  # type: ignore[call-overload]
        job = client.attach(job) if detach else job
        wait_until(lambda: len(held_children(two_sets.folder)) == 2, "each worker runs a chunk")
    np.testing.assert_array_equal(job.result(), rows * 2)
    assert job.progress().slots == 2
    if not detach:
        job.wait()
        assert not two_sets.resent(job.id)

    def ran() -> list[int]:
        return [chunks_run(worker, job.id) for worker in two_sets.workers]

    wait_until(lambda: sum(ran()) >= 24, "the logs tell of every chunk")
    # In proportion to slots: detached as they were sent, attached as they were answered.
    assert min(ran()) == 12 if detach else min(ran()) > 0


def test_a_worker_consumes_the_queue_of_its_model_set_alone(two_sets: System, server: redis.Redis) -> None:
    ended = two_sets.celery("inspect", "active_queues", "--json")

    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout).items()
    shown = {name.partition("@")[0]: [queue["name"] for queue in found] for name, found in told}
    slots = {slot.worker.partition("@")[0]: slot for slot in two_sets.slots()}
    assert shown == {name: [slot.queue] for name, slot in slots.items()}
    for slot in slots.values():
        assert slot.queue == queue_of({info.name: info.digest for info in slot.models})
        assert server.zscore(keys.QUEUES, slot.queue)
    assert slots["one"].queue != slots["two"].queue


def test_a_task_without_a_queue_is_refused(two_sets: System, server: redis.Redis) -> None:
    ended = two_sets.celery("call", "celeriac.infer", "--args", "[1]")

    assert ended.returncode != 0
    assert "task celeriac.infer needs a queue" in ended.stderr
    assert not server.exists(KEY_PREFIX + QUEUE)


def test_a_queue_that_no_worker_consumes_is_deleted_after_long(two_sets: System, server: redis.Redis) -> None:
    ours, now = {slot.queue for slot in two_sets.slots()}, time.time()
    server.zadd(keys.QUEUES, {"celeriac.old": now - QUEUE_TTL_SECONDS - 1})
    server.zadd(keys.QUEUES, {"celeriac.young": now - QUEUE_TTL_SECONDS + 60})
    for name in ("old", "young"):
        server.lpush(keys.queue(f"celeriac.{name}"), "a message")

    queues.note(server, ours)

    assert systems.queues(server) == [keys.queue("celeriac.young").encode()]
    assert set(server.zrange(keys.QUEUES, 0, -1)) == {name.encode() for name in (*ours, "celeriac.young")}
    assert server.ttl(keys.QUEUES) > QUEUE_TTL_SECONDS
    server.delete(keys.queue("celeriac.young"))


# --- workers that come and go ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "detach", [False, True] if LONG else [False], ids=lambda detach: "detached" if detach else "attached"
)
def test_a_worker_killed_beside_one_of_another_set_costs_no_row(system: System, manifest: Path, detach: bool) -> None:
    victim, survivor = start(system, manifest, "victim", "held"), start(system, manifest, "survivor", "digits,held")
    rows = ROWS.copy()
    rows[6:, 0] = 42
    with Client(system.url) as client, holding(system.folder, 42) as let_go:
        job: Any = client.submit("held", rows, chunk_rows=1, detach=detach)  # type: ignore[call-overload]
        job = client.attach(job) if detach else job
        wait_until(lambda: {*descendants_of(victim.pid)} & held_children(system.folder), "it runs a chunk")
        kill(victim)
        let_go()

        np.testing.assert_array_equal(job.result(), rows * 2)
        assert (job.ledger.predicted, job.ledger.failed) == (24, 0)
        assert job.ledger.chunks_sent_again > 0
    assert chunks_run(survivor, job.id) > 0


@in_long_form
@pytest.mark.parametrize("detach", [False, True], ids=["attached", "detached"])
def test_a_job_goes_on_when_its_only_worker_is_replaced_by_one_of_another_set(
    system: System, manifest: Path, detach: bool
) -> None:
    victim = start(system, manifest, "victim", "held")
    with Client(system.url, worker_timeout_seconds=FOR_EVER) as client:
        with holding(system.folder, ROWS[3, 0]):
            job: Any = client.submit("held", ROWS[:8], chunk_rows=1, detach=detach)  # type: ignore[call-overload]
            job = client.attach(job) if detach else job
            wait_until(lambda: held_children(system.folder), "it is in the middle")
            kill(victim)
        wait_until(lambda: not system.slots(), "nobody holds the model")
        start(system, manifest, "another", "digits,held")

        np.testing.assert_array_equal(job.result(), ROWS[:8] * 2)


@in_long_form
def test_a_worker_of_another_set_that_comes_later_helps_in_a_job(system: System, manifest: Path) -> None:
    start(system, manifest, "first", "held")
    with Client(system.url) as client, until_told(np.full(4, 42.0)) as (rows, enough):
        with holding(system.folder, 42):
            job = client.submit("held", rows, chunk_rows=1)
            taker = threading.Thread(target=list, args=(job.parts(),))
            taker.start()
            later = start(system, manifest, "later", "pair,held")
            wait_until(lambda: {*descendants_of(later.pid)} & held_children(system.folder), "it helps")
            enough()
        taker.join()
        job.ledger.check()
        assert job.progress().slots == 2


# --- versions -------------------------------------------------------------------------------------------------------


@keras_may_warn()
def write_version(folder: Path, models: Path, factor: float) -> Path:
    import keras

    folder.mkdir()
    model = keras.models.load_model(models / "digits.keras", compile=False)
    model.set_weights([weight * factor for weight in model.get_weights()])
    model.save(folder / "digits.keras")
    manifest = folder / "models.toml"
    manifest.write_text('[models.digits]\npath = "digits.keras"\n')
    return manifest


@in_long_form
def test_while_workers_are_upgraded_each_job_has_one_version(system: System, models: Path, tmp_path: Path) -> None:
    old, new = (write_version(tmp_path / name, models, factor) for name, factor in (("old", 1.0), ("new", 0.5)))
    expected = {path: in_one_process(path.parent / "digits.keras", PIXELS) for path in (old, new)}
    start(system, old, "old")
    with Client(system.url) as client, until_told(PIXELS[0]) as (rows, enough):
        running = client.submit("digits", rows, chunk_rows=1)
        parts = running.parts()
        next(parts)
        taken: list[np.ndarray] = []
        taker = threading.Thread(target=lambda: taken.extend(part.outputs for part in parts))
        taker.start()
        worker = start(system, new, "new")

        for detach in (False, True):
            job: Any = client.submit("digits", PIXELS, chunk_rows=10, detach=detach)  # type: ignore[call-overload]
            job = client.attach(job) if detach else job
            np.testing.assert_allclose(job.result(), expected[new], **CLOSE)
            wait_until(lambda job=job: chunks_run(worker, job.id) == 20, "the log tells of every chunk")
        versions = json.loads(system.celeriac("models", "--json").stdout)["models"]
        assert [(version["name"], version["slots"]) for version in versions] == [("digits", 1)] * 2
        assert len({version["digest"] for version in versions}) == 2

        enough()
        taker.join()
        for outputs in taken:
            np.testing.assert_allclose(outputs, expected[old][:1], **CLOSE)
        # Now most slots hold the old version.
        start(system, old, "older", children=2)
        np.testing.assert_allclose(client.predict("digits", PIXELS), expected[old], **CLOSE)


# --- options --------------------------------------------------------------------------------------------------------


def celeriac_worker(system: System, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [BIN / "celeriac", "worker", *words],
        env=system.environ(),
        cwd=system.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_models_by_name_are_the_only_ones_that_a_worker_holds(system: System, models: Path) -> None:
    held = write_held_models(system.folder)["held"]
    write_manifest(system.folder, {"digits": models / "digits.keras", "held": held, "again": held})
    worker = celeriac_worker(system, "--models", "held,again", "--workers", "1")
    try:
        (slot,) = wait_until(system.slots, "the child is ready")
        assert {info.name for info in slot.models} == {"held", "again"}
    finally:
        worker.terminate()
        worker.communicate()


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (
            ["--models", "digits,letters"],
            ExitCode.MODEL,
            "no model 'letters' in the manifest to hold; there are: ",
        ),
        (["--models", "letters.toml"], ExitCode.USAGE, "the manifest letters.toml cannot be read"),
        (["--", "-Q", "other"], ExitCode.USAGE, "a worker consumes the queue of its model set; leave"),
        (
            ["--", "-X", "celeriac"],
            ExitCode.USAGE,
            "a worker consumes the queue of its model set; leave",
        ),
    ],
)
def test_what_a_worker_cannot_hold_or_consume_ends_it_with_one_line(
    two_sets: System, manifest: Path, words: list[str], code: ExitCode, line: str
) -> None:
    (two_sets.folder / "models.toml").write_text(manifest.read_text())
    worker = celeriac_worker(two_sets, *words)
    _, said = worker.communicate(timeout=60)

    assert worker.returncode == code, said
    (ours,) = [words for words in said.splitlines() if words.startswith("celeriac: ")]
    assert ours.startswith(f"celeriac: {line}")
    assert "Traceback" not in said
