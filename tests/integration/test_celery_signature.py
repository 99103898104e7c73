"""Jobs as tasks of another Celery app, with its own settings, whose workers cannot import TensorFlow."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import numpy as np
import pytest
from celery import chain, chord, group
from celery.exceptions import SoftTimeLimitExceeded, TaskRevokedError, TimeLimitExceeded

from producer import Client, JobState
from producer.celery import load
from producer.records import job_store
from producer.records.name_claim import NameClaim
from producer.scheduling.job_options import JobName
from tests.held import held_child, holding, write_held_models
from tests.manifests import write_manifest
from tests.models import in_one_process
from tests.systems import SIGNING, System, Worker, serving, shared_folders
from tests.waiting import wait_until
from worker_config.errors import InputError, RowsFailedError, UnknownModelError, UsageError

ROWS = np.random.default_rng(3).random((300, 64), np.float32)
CLOSE = {"rtol": 1e-5, "atol": 1e-6}
WAIT_SECONDS = 90

# What a user has: an app of JSON and results, with tasks of its own, on a database of its own.
LIGHT = """
import os
import sys

if os.environ.get("WITHOUT_TENSORFLOW"):
    sys.modules |= dict.fromkeys(["tensorflow", "keras"])

from celery import Celery

app = Celery("light", broker="redis+socket://{socket}?virtual_host=1", set_as_current=False)
app.conf.update(
    result_backend="redis+socket://{socket}?virtual_host=1",
    include=["producer.celery"],
    task_serializer="json",
    accept_content=["json"],
    task_routes={{"celeriac.*": {{"queue": "light"}}}},
    task_default_queue="light",
    broker_transport_options={{
        "visibility_timeout": 3, "unacked_restore_interval": 1, "unacked_restore_throttle": 1
    }},
)


@app.task
def best(reference):
    from producer.celery import load

    return load(reference).argmax(1).tolist()


@app.task
def path_of(name):
    return name + ".npy"


@app.task
def count(references):
    return [reference["rows"] for reference in references]
"""


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[System]:
    """A worker with `digits`, and `held`, which fails on no row, and may be held."""
    folder = tmp_path_factory.mktemp("s")
    (folder / "picky.py").write_text(
        "def picky(rows):\n    if (rows == 13).any():\n        raise ValueError('thirteen')\n    return rows\n"
    )
    entries = {"digits": str(models / "digits.keras"), "picky": "picky:picky", **write_held_models(folder)}
    manifest = write_manifest(folder, entries)
    with serving(folder, manifest, environ=shared_folders(folder)) as system:
        np.save(folder / "data" / "rows.npy", ROWS)
        (folder / "light.py").write_text(LIGHT.format(socket=system.redis.socket))
        yield system


@pytest.fixture(scope="module")
def light(system: System) -> ModuleType:
    """The user's module, as imported by whoever sends tasks."""
    spec = importlib.util.spec_from_file_location("light", system.folder / "light.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def light_worker(system: System, name: str) -> Iterator[Worker]:
    """A worker of the user's app, which takes from the queue of its own name."""
    environ = {**os.environ, **SIGNING, "CELERIAC_BROKER_URL": system.url, "WITHOUT_TENSORFLOW": "1"}
    command = [sys.executable, "-m", "celery", "-A", "light", "worker", "-c", "2", "-l", "info", "-Q", name, "-n", name]
    log = system.folder / f"{name}.{len(list(system.folder.glob('*.light')))}.light"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=system.folder, env=environ, stdout=output, stderr=output, start_new_session=True
        )
    worker = Worker(process, log)
    try:
        yield worker
    finally:
        worker.stop()


@pytest.fixture(scope="module")
def worker(system: System) -> Iterator[None]:
    with light_worker(system, "light"):
        yield


@pytest.fixture(autouse=True)
def own_broker(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELERIAC_BROKER_URL", system.url)


@pytest.fixture
def predict_job(light: ModuleType) -> Any:
    return light.app.tasks["celeriac.predict_job"]


@pytest.fixture(scope="module")
def expected(models: Path) -> Any:
    return in_one_process(models / "digits.keras", ROWS)


def jobs(system: System) -> dict[str, str]:
    """The states of all jobs by id."""
    with Client(system.url) as client, system.admin() as server:
        ids = [one.decode() for one in cast("list[bytes]", server.zrange("celeriac:jobs", 0, -1))]
        return {one: client.attach(one).state for one in ids}


# --- chains, groups, chords ------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("worker")
def test_a_chain_hands_the_reference_on(system: System, light: ModuleType, predict_job: Any, expected: Any) -> None:
    rows = str(system.folder / "data" / "rows")
    done = chain(light.path_of.s(rows), predict_job.s(models="digits"), light.best.s()).apply_async()
    assert done.get(timeout=WAIT_SECONDS) == expected.argmax(1).tolist()
    reference = done.parent.get(timeout=WAIT_SECONDS)
    assert (reference["rows"], reference["output"], reference["ledger"]["predicted"]) == (300, None, 300)
    assert reference["models"][0].startswith("digits")
    np.testing.assert_allclose(load(reference), expected, **CLOSE)


@pytest.mark.usefixtures("worker")
def test_a_chord_of_jobs_that_write_files(system: System, light: ModuleType, predict_job: Any, expected: Any) -> None:
    rows, outputs = str(system.folder / "data" / "rows.npy"), [str(system.folder / f"{one}.npy") for one in "ab"]
    header = [predict_job.s(rows, "digits", output, chunk_rows=70) for output in outputs]
    assert chord(header)(light.count.s()).get(timeout=WAIT_SECONDS) == [300, 300]
    for output in outputs:
        np.testing.assert_allclose(np.load(output), expected, **CLOSE)
        assert Path(output + ".ledger.json").exists()


@pytest.mark.usefixtures("worker")
def test_a_group_of_rows_in_the_messages(predict_job: Any, expected: Any) -> None:
    parts = [predict_job.s(ROWS[at : at + 2].tolist(), "digits") for at in (0, 2)]
    for at, reference in zip((0, 2), group(parts)().get(timeout=WAIT_SECONDS), strict=True):
        np.testing.assert_allclose(load(reference), expected[at : at + 2], **CLOSE)


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize(
    ("arguments", "options", "error", "text"),
    [
        (([[1.0], [13.0]], "picky"), {"chunk_rows": 1}, RowsFailedError, "thirteen"),
        ((ROWS[:2].tolist(), "nobody"), {}, UnknownModelError, "nobody"),
        (("/gone/rows.npy", "digits"), {}, InputError, "/gone/rows.npy: no such file"),
        (([[1.0], [1.0, 2.0]], "picky"), {}, InputError, "not all the same shape"),
        ((7, "picky"), {}, InputError, "data is 7; give a path"),
        (([[1.0]], "picky", "scores.doc"), {}, UsageError, "'.doc' cannot be written"),
        (([[1.0]], "picky"), {"ttl_seconds": 5}, UsageError, "ttl_seconds is 5"),
        (([[1.0]], "picky"), {"store": "files"}, UsageError, "spool folder"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else None,
)
def test_a_failure_is_our_error(
    predict_job: Any, arguments: Any, options: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        predict_job.s(*arguments, **options).apply_async().get(timeout=WAIT_SECONDS)


def test_an_unknown_option_is_refused_where_it_is_sent(predict_job: Any) -> None:
    with pytest.raises(TypeError, match="chunk_row"):
        predict_job.delay("rows.npy", "digits", chunk_row=1)
    with pytest.raises(UsageError, match="is no reference"):
        load(cast("Any", {"rows": 3}))


# --- ends ------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("terminate", [False, True])
def test_a_revoked_task_cancels_its_job(system: System, light: ModuleType, predict_job: Any, terminate: bool) -> None:
    before = set(jobs(system))
    with holding(system.folder, 3.0):
        task = predict_job.delay([[1.0], [2.0], [3.0]], "held", chunk_rows=1)
        wait_until(lambda: held_child(system.folder), "the job runs")
        (job_id,) = set(jobs(system)) - before
        light.app.control.revoke(task.id, terminate=terminate)
        wait_until(lambda: jobs(system)[job_id] == JobState.CANCELLED, "its job is cancelled")
    with pytest.raises(TaskRevokedError):
        task.get(timeout=WAIT_SECONDS)


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("limit", ["soft_time_limit", "time_limit"])
def test_so_does_one_whose_time_is_up(system: System, predict_job: Any, limit: str) -> None:
    before = set(jobs(system))
    with holding(system.folder, 5.0):
        # Within the first look, which a small job may take.
        task = predict_job.s([[4.0], [5.0]], "held", chunk_rows=1).apply_async(**{limit: 1})
        with pytest.raises(TimeLimitExceeded if limit == "time_limit" else SoftTimeLimitExceeded):
            task.get(timeout=WAIT_SECONDS)
        (job_id,) = set(jobs(system)) - before
        wait_until(lambda: jobs(system)[job_id] == JobState.CANCELLED, "its job is cancelled")


def test_a_light_worker_that_is_killed_leaves_a_job_that_is_computed_once(system: System, predict_job: Any) -> None:
    rows = [[float(number)] for number in range(100, 140)]
    before = set(jobs(system))
    with holding(system.folder, 139.0) as let_go:
        with light_worker(system, "fragile"):
            task = predict_job.s(rows, "held", chunk_rows=1).apply_async(queue="fragile")
            wait_until(lambda: held_child(system.folder), "the job runs")
            (job_id,) = set(jobs(system)) - before
        # Which has been killed. The message waits until its time limit for visibility is up.
        with light_worker(system, "fragile") as other:
            wait_until(lambda: f"[{task.id}] received" in other.output(), "the task is delivered again")
            let_go()
            reference = task.get(timeout=WAIT_SECONDS)
    assert reference["job"] == job_id
    np.testing.assert_array_equal(load(reference), 2 * np.array(rows, np.float32))
    assert set(jobs(system)) - before == {job_id}
    counts = reference["ledger"]
    assert (counts["chunks_answered"], counts["chunks_sent_again"], counts["duplicates"]) == (40, 0, 0)


def test_a_name_is_for_one_job(system: System) -> None:
    data = system.folder / "data" / "rows.npy"
    with Client(system.url) as client:
        first = client.submit("digits", ROWS, detach=True, job="mine")
        assert client.find("mine") == first
        assert client.submit("digits", ROWS, detach=True, job="mine") == first
        with pytest.raises(UsageError, match=r"'mine' does other work: its input has changed .*XXH3 of the rows: "):
            client.submit("digits", ROWS + 1, detach=True, job="mine")
        with pytest.raises(UsageError, match=r"'mine' does other work: .*path: unknown before, /.*rows.npy now"):
            client.submit("digits", data, detach=True, job="mine")
        client.attach(first).cancel()
        assert client.find("mine") == first
        again = client.submit("digits", ROWS, detach=True, job="mine")
        assert again != first
        assert client.find("mine") == again
        assert client.find("yours") is None
        with system.admin() as server:
            job_store.remove(server, again)
        assert client.submit("digits", ROWS, detach=True, job="mine") not in (first, again)
        known = client.submit("digits", iter(ROWS), detach=True, job=JobName.of("told", {"day": "2026-01-01"}))
        assert client.submit("digits", iter(ROWS), detach=True, job=JobName.of("told", {"day": "2026-01-01"})) == known
        with pytest.raises(UsageError, match=r"\(day: 2026-01-01 before, 2026-01-02 now\); choose another name"):
            client.submit("digits", iter(ROWS), detach=True, job=JobName.of("told", {"day": "2026-01-02"}))
        with pytest.raises(UsageError, match="job is for detach=True"):
            client.submit("digits", ROWS, job="mine")  # type: ignore[call-overload]
        with pytest.raises(UsageError, match="name has 300 characters"):
            client.submit("digits", ROWS, detach=True, job=300 * "x")


def test_a_name_that_a_producer_has_claimed_is_no_detached_job_s(system: System) -> None:
    before = set(jobs(system))
    with Client(system.url) as client, closing(NameClaim(system.url, "claimed", 600)) as claim:
        assert claim.take() == ""
        with pytest.raises(UsageError, match=r"job 'claimed' is run by .*; wait for its end, or choose another name"):
            client.submit("digits", ROWS, detach=True, job="claimed")
    assert set(jobs(system)) == before


def test_of_two_that_submit_by_a_name_at_a_time_one_does(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    create, before = job_store.create, set(jobs(system))
    with Client(system.url) as client:
        first: list[str] = []

        def create_late(*args: Any, **options: Any) -> None:
            monkeypatch.undo()
            first.append(client.submit("digits", ROWS, detach=True, job="both", chunk_rows=7))
            create(*args, **options)

        monkeypatch.setattr(job_store, "create", create_late)
        assert client.submit("digits", ROWS, detach=True, job="both", chunk_rows=11) == first[0]
    assert set(jobs(system)) - before == set(first)


def test_messages_that_a_killed_process_did_not_send_are_sent(system: System, expected: Any) -> None:
    lines = [
        "import os",
        "import numpy as np",
        "import producer.detached.submit as submit",
        "from producer import Client",
        "submit.send = lambda *_: os._exit(9)",
        "client = Client()",
        f"client.submit('digits', np.load({str(system.folder / 'data' / 'rows.npy')!r}), detach=True, job='cut')",
    ]
    assert subprocess.run([sys.executable, "-c", "\n".join(lines)], check=False).returncode == 9
    with Client(system.url) as client:
        job = client.attach(client.submit("digits", ROWS, detach=True, job="cut"))
        np.testing.assert_allclose(job.result(), expected, **CLOSE)
        assert job.ledger.duplicates == 0
