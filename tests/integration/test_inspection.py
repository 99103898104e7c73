"""Celery's own tools on a worker at work: what it tells of its children, drains, grows, shrinks; no row is lost."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from producer import Client, Job, JobState
from tasks.protocol import keys
from tasks.protocol.rights import OPERATOR
from tests.manifests import write_manifest
from tests.systems import BIN, REPOSITORY, System, Worker
from tests.waiting import is_alive, wait_for_exit, wait_until
from worker_config.errors import ExitCode, NoWorkerError

MODEL = """
import os

from tests.waiting import wait_until

# A child that loads its models for long.
wait_until(lambda: not os.path.exists("hang"), "the test lets the models be loaded")

def gated(rows):
    # Row N goes on when the test has made the file N; made-up rows do at once.
    if rows[0, 0] > 0.5:
        wait_until(lambda: os.path.exists(str(int(rows[0, 0]))), "the test lets the row go on")
    return rows * 2
"""
ROWS = 12
NODE = "first@here"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A worker with two children, and a job in it when `running` asks for one."""
    from tests.systems import serving

    folder = tmp_path_factory.mktemp("s")
    with serving(folder) as system:
        start(system, NODE)
        yield system


@pytest.fixture
def client(shared: System) -> Iterator[Client]:
    # A worker may drain for as long as a busy machine takes for the commands.
    with Client(shared.url, worker_timeout_seconds=600) as client:
        yield client


def start(system: System, node: str, children: int = 2, while_it_starts: Callable[[], object] = bool) -> Worker:
    (system.folder / "gated_model.py").write_text(MODEL)
    manifest = write_manifest(system.folder, {"gated": {"path": "gated_model:gated", "batch_rows": 1}})
    worker = system.start_worker(manifest, children, "-n", node, environ={"PYTHONPATH": str(REPOSITORY)})
    while_it_starts()
    wait_until(lambda: " ready." in worker.output(), "the worker takes commands")
    return worker


def rows_from(first: int) -> np.ndarray:
    return np.repeat(np.arange(first, first + ROWS, dtype=np.float32)[:, None], 2, axis=1)


def submit(client: Client, first: int) -> Job:
    """A job of one row a chunk; each waits for `let` with its number."""
    return client.submit("gated", rows_from(first), chunk_rows=1)


def let(system: System, *numbers: int) -> None:
    for number in numbers:
        (system.folder / str(number)).touch()


def ends_right(system: System, job: Job, first: int) -> None:
    let(system, *range(first, first + ROWS))
    np.testing.assert_array_equal(job.result(), rows_from(first) * 2)
    job.ledger.check()
    assert job.ledger.predicted == ROWS


def inspect(system: System, what: str) -> dict[str, Any]:
    """As a user does."""
    done = system.celery("inspect", "-t", "10", "-d", NODE, "--json", what)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout)[NODE])


def control(system: System, *words: str) -> str:
    """As a user does."""
    done = system.celery("control", "-t", "10", "-d", NODE, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def ready(system: System) -> dict[str, Any]:
    return system.ask(NODE, "ready")


def runs(system: System) -> list[dict[str, Any]]:
    return [child for child in system.ask(NODE, "models")["children"] if child["runs"]]


def health(system: System, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tasks.health", *options],
        env=system.environ(),
        cwd=system.folder,
        capture_output=True,
        text=True,
        check=False,
    )


def pids_of(system: System) -> set[int]:
    return {slot.pid for slot in system.slots()}


def test_it_tells_what_each_child_holds_has_done_and_runs(shared: System, client: Client) -> None:
    told = inspect(shared, "ready")
    assert (told["state"], told["children"], told["ready"], told["running"]) == ("serving", 2, 2, 0)
    before = sum(child["rows"] for child in inspect(shared, "models")["children"])
    job = submit(client, 100)
    let(shared, 100, 101, 102)
    wait_until(lambda: job.progress().predicted == 3, "three rows are predicted")

    def seen() -> list[dict[str, Any]]:
        # A child counts its rows when its answer is there, and runs the next chunk then.
        found = runs(shared)
        return found if sum(child["rows"] for child in found) - before == 3 else []

    children = wait_until(lambda: len(found := seen()) == 2 and found, "both children run a chunk, after three rows")

    (digest,) = job.digests.values()
    assert {child["pid"] for child in children} == pids_of(shared)
    assert [child["slot"] for child in children] == [0, 1]
    for child in children:
        assert child["ready"]
        assert child["models"] == [
            {"name": "gated", "version": digest[:8], "digest": digest, "executor": child["models"][0]["executor"]}
        ]
        assert 0 < child["memory_own_mib"] <= child["memory_pss_mib"] < 2_000
        assert re.fullmatch(rf"chunk \d+/12 rows \d+-\d+ of job {job.id}, gated@{digest[:8]}", child["runs"])
        assert child["runs_for_seconds"] >= 0
    assert ready(shared)["running"] == 2
    ends_right(shared, job, 100)


def test_celerys_own_commands_show_chunks_in_words(shared: System, client: Client) -> None:
    log = shared.folder / "events.log"
    with log.open("wb") as output:
        events = subprocess.Popen(
            [str(BIN / "celery"), "-A", "tasks", "events", "--dump"],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=shared.environ(PYTHONUNBUFFERED="1", CELERIAC_BROKER_URL=shared.redis.url_as(OPERATOR)),
            cwd=shared.folder,
        )
    try:
        # It looks whether anybody listens before each heartbeat; the first may be heard by who came just after that.
        wait_until(lambda: log.read_text().count("freq=2.0") > 1, "events are listened to")
        job = submit(client, 200)
        wait_until(lambda: runs(shared), "a chunk runs")
        (active, *_) = json.loads(shared.celery("inspect", "-t", "10", "-d", NODE, "--json", "active").stdout)[NODE]
        words = rf"chunk \d+/12 rows \d+-\d+ of job {job.id}, gated@[0-9a-f]{{8}}"
        assert active["name"] == "celeriac.infer"
        assert re.fullmatch(words, active["args"])
        wait_until(lambda: re.search(words, log.read_text()), "events tell of chunks in words")
        ends_right(shared, job, 200)
    finally:
        events.kill()
        events.wait()
    status = shared.celery("status", "-t", "10", "-d", NODE)
    assert status.returncode == 0, status.stderr
    assert NODE in status.stdout
    assert "1 node online" in status.stdout


def test_it_grows_and_shrinks_while_a_job_runs(shared: System, client: Client) -> None:
    before = pids_of(shared)
    job = submit(client, 300)
    wait_until(lambda: len(runs(shared)) == 2, "all children run something")

    (shared.folder / "hang").touch()
    assert "5 children" in control(shared, "pool_grow", "3")
    told = ready(shared)
    assert (told["children"], told["ready"]) == (5, 2)
    assert pids_of(shared) == before, "a child that loads is no slot"
    (shared.folder / "hang").unlink()
    wait_until(lambda: len(shared.slots()) == 5, "the new children are slots")
    wait_until(lambda: len(runs(shared)) == 5, "they take chunks")
    told = ready(shared)
    assert (told["children"], told["ready"]) == (5, 5)
    assert before < pids_of(shared)

    all_five = pids_of(shared)
    assert "1 children" in control(shared, "pool_shrink", "4")
    (last,) = pids_of(shared)  # at once, though all of them still run a chunk
    children = ready(shared)
    assert (children["children"], children["ready"], children["running"]) == (1, 1, 5)
    assert all(map(is_alive, all_five))
    ends_right(shared, job, 300)
    shared.assert_run_once(job.id, job.ledger)
    wait_until(lambda: not any(map(is_alive, all_five - {last})), "the others have ended")
    assert pids_of(shared) == {last}
    assert "one must stay" in shared.ask(NODE, "pool_shrink", n=1)["error"]
    assert "number from 1 on" in shared.ask(NODE, "pool_grow", n=0)["error"]

    shared.ask(NODE, "pool_grow")
    wait_until(lambda: len(shared.slots()) == 2, "there are two children again")


def lose_connections(system: System) -> None:
    """Those of the worker to Redis; it has others when this returns."""
    with system.admin() as server:

        def hears() -> list[str]:
            return [one["id"] for one in server.client_list(_type="pubsub")]

        cut = hears()
        server.client_kill_filter(_type="pubsub", skipme=True)
        server.client_kill_filter(_type="normal", skipme=True)
        wait_until(lambda: (found := hears()) and not set(found) & set(cut), "the worker is connected again")


def test_it_takes_one_chunk_more_than_it_has_children_after_a_lost_connection_too(shared: System) -> None:
    def takes(chunks: int) -> bool:
        return bool(shared.ask(NODE, "stats")["prefetch_count"] == chunks)

    wait_until(lambda: takes(3), "both its children count")
    lose_connections(shared)
    assert takes(3)

    (shared.folder / "hang").touch()
    shared.ask(NODE, "pool_grow")
    lose_connections(shared)
    assert takes(3), "nothing for a child that loads"
    (shared.folder / "hang").unlink()
    wait_until(lambda: takes(4), "the child has come")
    shared.ask(NODE, "pool_shrink")
    wait_until(lambda: takes(3), "it has gone")


def test_it_drains_and_comes_back_and_producers_notice(shared: System, client: Client) -> None:
    job = submit(client, 400)
    wait_until(lambda: len(runs(shared)) == 2, "two chunks run")

    assert "drains" in control(shared, "drain")
    wait_until(lambda: not shared.slots(), "its slots are gone")
    told = ready(shared)
    assert (told["state"], told["ready"], told["running"]) == ("draining", 2, 2)
    assert "draining, 2 chunks run" in wait_until(
        lambda: "draining" in (said := health(shared).stdout) and said, "its health tells of it"
    )
    let(shared, *range(400, 400 + ROWS))
    wait_until(lambda: ready(shared)["running"] == 0, "what ran is done")
    wait_until(lambda: job.progress().predicted >= 2, "its answers have come")
    assert ready(shared)["running"] == 0
    assert job.progress().predicted == 2, "what it had not begun waits"
    assert job.state is JobState.RUNNING
    node = re.escape(NODE)
    with (
        Client(shared.url, worker_timeout_seconds=0) as other,
        pytest.raises(NoWorkerError, match=rf"{node} drains and takes no chunks; `celery .* resume`.*; looked at"),
    ):
        other.predict("held", rows_from(400))
    told = shared.celeriac("doctor")
    assert told.returncode == ExitCode.NO_WORKER
    line = rf"error +workers +{node} drains and takes no chunks; `celery -A tasks control resume` ends that"
    assert re.search(line, told.stdout), told.stdout

    control(shared, "resume")
    np.testing.assert_array_equal(job.result(), rows_from(400) * 2)
    shared.assert_run_once(job.id, job.ledger)
    wait_until(lambda: len(shared.slots()) == 2, "its slots are back")
    assert ready(shared)["state"] == "serving"


def test_a_child_that_comes_while_it_drains_is_no_slot_and_another_worker_takes_over(
    shared: System, client: Client, tmp_path: Path
) -> None:
    job = submit(client, 500)
    wait_until(lambda: len(runs(shared)) == 2, "two chunks run")
    shared.ask(NODE, "drain")
    wait_until(lambda: not shared.slots(), "its slots are gone")
    shared.ask(NODE, "pool_grow")
    wait_until(lambda: ready(shared)["ready"] == 3, "a child has come")
    assert not shared.slots()
    shared.ask(NODE, "pool_shrink")

    other = start(shared, "second@here", 1, while_it_starts=lambda: _its_start_is_told(shared))
    ends_right(shared, job, 500)
    shared.assert_run_once(job.id, job.ledger)
    (slot,) = shared.slots()
    assert slot.worker.startswith("second@here")
    other.process.terminate()  # and so its slot goes at once
    wait_for_exit(other.process)
    assert not shared.slots()
    shared.ask(NODE, "resume")
    wait_until(lambda: len(shared.slots()) == 2, "both serve")


def test_its_health_is_told_fast_and_without_tensorflow(shared: System) -> None:
    words = rf"{NODE}: 2 of 2 children are ready, [\d,]+ chunks done\n"
    wait_until(lambda: re.fullmatch(words, health(shared, "-n", NODE).stdout), "all is well")
    assert health(shared, "-n", NODE).returncode == 0
    nobody = health(shared, "-n", "nobody@here")
    assert nobody.returncode == 1
    assert nobody.stdout.startswith("unhealthy: no worker nobody@here")
    code = "import sys, tasks.health; assert not {'tensorflow', 'celery', 'redis', 'numpy'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_child_that_does_not_come_back_is_told(shared: System) -> None:
    (shared.folder / "hang").touch()
    victim, *_ = pids_of(shared)
    os.kill(victim, signal.SIGKILL)
    said = wait_until(
        lambda: (told := health(shared, "-n", NODE, "--child-seconds", "0")).returncode and told.stdout, "it is told"
    )
    assert re.fullmatch(rf"unhealthy: {NODE}: not ready: child \d \(pid \d+\) for \d+ s\n", said)
    told = ready(shared)
    assert (told["children"], told["ready"]) == (2, 1)
    assert sum("not ready for" in words for words in told["slots"].values()) == 1
    assert health(shared, "-n", NODE).returncode == 0, "it may take a while"
    assert health(shared, "-n", NODE, "--child-seconds", "0", "--ready-share", "0.5").returncode == 0
    (shared.folder / "hang").unlink()
    wait_until(lambda: ready(shared)["ready"] == 2, "another child is in its place")
    wait_until(lambda: health(shared, "-n", NODE, "--child-seconds", "0").returncode == 0, "all is well again")


def test_it_drains_through_an_outage_of_redis(shared: System) -> None:
    shared.ask(NODE, "drain")
    wait_until(lambda: not shared.slots(), "its slots are gone")
    shared.redis.stop()
    lost = wait_until(lambda: "Redis" in (told := health(shared, "-n", NODE)).stdout and told, "it has noticed")
    assert "Redis is out of reach" in lost.stdout
    assert lost.returncode == 0, "no restart of it would help"
    shared.redis.start()
    wait_until(lambda: "Redis" not in health(shared, "-n", NODE).stdout, "it is connected again")
    assert ready(shared)["state"] == "draining"
    assert shared.celery("inspect", "-t", "10", "-d", NODE, "--json", "active_queues").stdout.strip().endswith("[]}")

    shared.ask(NODE, "resume")
    wait_until(lambda: len(shared.slots()) == 2, "it serves again")
    with Client(shared.url) as client:
        ends_right(shared, submit(client, 600), 600)


def test_a_worker_that_drains_can_be_ended(shared: System) -> None:
    shared.ask(NODE, "drain")
    wait_until(lambda: not shared.slots(), "its slots are gone")
    (worker, *_) = shared.workers
    worker.process.terminate()
    assert wait_for_exit(worker.process) == 0, worker.output()
    assert health(shared, "-n", NODE).returncode == 1, "it is gone"
    with shared.admin() as server:
        assert not list(server.scan_iter(keys.worker("*")))


def _its_start_is_told(system: System) -> None:
    def told() -> bool:
        return "second@here: starts for" in health(system, "-n", "second@here", "--start-seconds", "0").stdout

    wait_until(told, "a worker that starts is told")
    assert health(system, "-n", "second@here").returncode == 0, "it may take a while"
