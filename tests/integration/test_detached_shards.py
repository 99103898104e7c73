"""Jobs that are left on several Redis servers, a part on each, whatever becomes of one of them; and the commands."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import structs

from producer import Client, JobState
from producer.broker import jobs
from producer.broker.shard_clients import open_shards
from producer.dashboard.overview import Overview
from producer.detached.detached_job import DetachedJob
from producer.records import job_store
from tasks.protocol import keys
from tasks.protocol.messages import Differed, ModelRef, Outputs
from tasks.protocol.plan import Plan
from tasks.protocol.seal import Viewer
from tasks.transport.publish_answer import VoidAnswerError
from tasks.transport.resend_detached import message
from tests.manifests import write_manifest
from tests.seals import SEALER, outputs_ref, push
from tests.shards import Shards, sharded
from tests.systems import REPOSITORY, SIGNING_KEYS, System
from tests.waiting import wait_until
from worker_config.broker import redacted
from worker_config.errors import BrokerError, ExitCode, JobCancelledError, RowsFailedError, UnknownJobError, UsageError

COUNT, CHUNKS = 3, 30
# Doubles what it gets; each chunk stays while there is a file `hold`, and a negative row raises.
MODEL = """
import time
from pathlib import Path

import numpy as np


def held(rows):
    while (Path(__file__).parent / "hold").exists():
        time.sleep(0.01)
    if (rows < 0).any():
        raise ValueError("a negative row")
    return rows * 2
"""
ROWS = np.arange(4 * CHUNKS, dtype=np.float64).reshape(-1, 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("s")
    (folder / "model_held.py").write_text(MODEL)
    (folder / "data").mkdir()
    np.save(folder / "data" / "rows.npy", ROWS)
    return folder


@pytest.fixture(scope="module")
def shards(folder: Path) -> Iterator[Shards]:
    manifest = write_manifest(folder, {"held": {"path": "model_held:held", "batch_rows": 4}})
    roots = {"CELERIAC_DATA_ROOTS": str(folder / "data"), "CELERIAC_OUTPUT_ROOTS": str(folder / "data")}
    # What is written is on the disk before it is answered: a server that is killed has all of it when it is back.
    options = ("--appendonly", "yes", "--appendfsync", "always")
    with sharded(folder, COUNT, manifest, 1, options, roots) as shards:
        yield shards


@pytest.fixture
def client(shards: Shards) -> Iterator[Client]:
    shards.wait_for_slots(*[1] * COUNT)
    # What was on its way to a worker when a server was killed is sent again after so long.
    settings = replace(shards.settings(), chunk_timeout_seconds=15)
    with closing(Client(settings=settings)) as client:
        yield client


@pytest.fixture
def hold(folder: Path) -> Iterator[Path]:
    """While it is there, chunks that have begun do not end."""
    (folder / "hold").touch()
    yield folder / "hold"
    (folder / "hold").unlink(missing_ok=True)


@pytest.fixture
def path(folder: Path) -> str:
    """Rows that workers read in their file."""
    return str(folder / "data" / "rows.npy")


def leave(client: Client, data: object, **options: Any) -> DetachedJob:
    return client.attach(client.submit("held", data, chunk_rows=4, detach=True, **options))


def answered(system: System, job: DetachedJob) -> set[int]:
    """The chunks that this shard has answers of."""
    with system.admin() as server:
        return set(map(int, server.hkeys(keys.answers(job.id))))


def state_on(system: System, job: DetachedJob) -> str:
    with system.admin() as server:
        return (server.hget(keys.job(job.id), "state") or b"").decode()


def command(shards: Shards, *words: str | Path, code: int = 0) -> str:
    """All that a command prints."""
    done = shards.systems[0].celeriac(*words, CELERIAC_BROKER_URL=shards.url)
    assert done.returncode == code, done.stdout + done.stderr
    return str(done.stdout + done.stderr)


def killed_in(shards: Shards, patch: str) -> None:
    """A process that leaves a job, and is killed on the way, by a signal that it sends to itself."""
    lines = [
        "import os, signal",
        "import numpy as np",
        "from producer import Client",
        "from producer.detached import submit",
        "from producer.records import job_store",
        "calls = []",
        "def killed_at(number, do):",
        "    def call(*args, **options):",
        "        calls.append(number)",
        "        if len(calls) == number:",
        "            os.kill(os.getpid(), signal.SIGKILL)",
        "        return do(*args, **options)",
        "    return call",
        patch,
        f"rows = np.arange({len(ROWS)}, dtype=float).reshape(-1, 1)",
        f"with Client({shards.url!r}) as client:",
        "    client.submit('held', rows, chunk_rows=4, detach=True)",
    ]
    environ = shards.systems[0].environ(PYTHONPATH=str(REPOSITORY))
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], check=False, env=environ)
    assert done.returncode == -signal.SIGKILL


def listed(shards: Shards) -> list[str]:
    with open_shards(shards.url) as clients:
        return [record.id for _, record in jobs.read_all(clients, SEALER)[0]]


def test_each_shard_has_its_share_and_its_workers_run_it(shards: Shards, client: Client, path: str) -> None:
    for data in (ROWS, path, iter(ROWS)):
        job = leave(client, data)
        np.testing.assert_array_equal(job.result(), ROWS * 2)
        np.testing.assert_array_equal(client.attach(job.id[:8]).result(), ROWS * 2)  # again, from the beginning
        shares = [answered(system, job) for system in shards.systems]
        assert set().union(*shares) == set(range(CHUNKS))
        assert [len(share) for share in shares] == [CHUNKS // COUNT] * COUNT
        assert job.ledger.predicted == job.ledger.rows == len(ROWS)
        assert job.ledger.chunks_answered == job.ledger.chunks_sent == CHUNKS
        assert job.state is JobState.DONE
        assert not job.ledger.chunks_sent_again
        job.cancel()
        assert [state_on(system, job) for system in shards.systems] == ["cancelled"] * COUNT


def test_a_row_that_fails_on_one_ends_all(shards: Shards, client: Client) -> None:
    rows = ROWS.copy()
    rows[50] = -1
    job = leave(client, rows)
    with pytest.raises(RowsFailedError, match="a negative row"):
        job.result()
    assert job.state is JobState.FAILED
    states = [state_on(system, job) for system in shards.systems]
    wait_until(lambda: job.wait() and "running" not in [state_on(one, job) for one in shards.systems], "all have ended")
    assert states.count("failed") == 1
    assert [failed.rows for failed in job.failures()] == ["row 50"]
    assert "a negative row" in command(shards, "failures", job.id)
    assert "failed" in command(shards, "status", job.id)


def test_workers_of_all_write_one_output(shards: Shards, client: Client, folder: Path) -> None:
    rows = ROWS.copy()
    rows[50] = -1
    np.save(folder / "data" / "bad.npy", rows)
    out = folder / "data" / "out.npy"
    words: list[str | Path] = [
        "held",
        folder / "data" / "bad.npy",
        "--chunk-rows",
        "4",
        "--on-error",
        "skip",
        "--detach",
        "--quiet",
    ]
    job_id = command(shards, "predict", *words, "-o", f"{out}/").split()[0]
    assert "119 rows" in command(shards, "fetch", job_id)
    written = np.concatenate([np.load(part) for part in sorted(out.glob("*.npy"))])
    np.testing.assert_array_equal(written, np.delete(rows, 50, axis=0) * 2)
    job = client.attach(job_id)
    assert (job.ledger.predicted, job.ledger.failed) == (119, 1)
    assert [failed.start for failed in job.failures()] == [50]
    assert min(len(answered(system, job)) for system in shards.systems) == CHUNKS // COUNT


@pytest.mark.parametrize("detach", [False, True], ids=["attached", "detached"])
def test_commands_find_a_job_on_all(shards: Shards, client: Client, folder: Path, detach: bool) -> None:
    rows = ROWS.copy()
    rows[50] = -1
    job = leave(client, ROWS) if detach else client.submit("held", rows, chunk_rows=4, on_error="skip")
    assert len(job.result()) == len(ROWS) - (not detach)
    wait_until(lambda: "state      done" in command(shards, "status", job.id), "it is done")
    assert command(shards, "jobs", "--limit", "1").split().count(job.id) == 1
    assert ("no failures" in command(shards, "failures", job.id)) is detach
    page = folder / f"{job.id}.html"
    command(shards, "report", job.id, "-o", page)
    text = page.read_text()
    workers = {slot.worker for system in shards.systems for slot in system.slots()}
    assert [worker for worker in workers if worker not in text] == []


def test_a_producer_that_is_killed_before_all_parts_are_there_has_left_none(shards: Shards, client: Client) -> None:
    before = listed(shards)
    killed_in(shards, "job_store.create = killed_at(2, job_store.create)")
    assert listed(shards) == before
    with shards.systems[0].admin() as server:
        [orphan] = {one.decode() for one in server.zrange(keys.JOBS, 0, -1)} - set(before)
    with pytest.raises(UnknownJobError, match="was not left"):
        client.attach(orphan)


def test_what_a_killed_producer_has_not_sent_is_sent_by_who_waits(shards: Shards, client: Client) -> None:
    before = listed(shards)
    killed_in(shards, "submit.send = killed_at(2, submit.send)")
    [job_id] = set(listed(shards)) - set(before)
    np.testing.assert_array_equal(client.attach(job_id).result(), ROWS * 2)


def test_one_that_is_away_is_named_and_waited_for(shards: Shards, client: Client, hold: Path, path: str) -> None:
    job, other = leave(client, ROWS), leave(client, path)
    attached = client.submit("held", ROWS, chunk_rows=4)
    wait_until(lambda: attached.ledger.chunks_sent > COUNT, "an attached job runs beside them")
    victim = shards.systems[1]
    victim.redis.stop()
    away = f"Redis at {redacted(victim.url)}"
    status = command(shards, "status", job.id)
    assert f"{away} is away: {CHUNKS // COUNT} of {CHUNKS} chunks" in status
    assert "running" in status
    assert {job.id, other.id, attached.id} <= {
        one["job"] for one in json.loads(_first_line(command(shards, "jobs", "--json")))["jobs"]
    }
    assert json.loads(_first_line(command(shards, "status", "--json", attached.id)))["state"] == "running"
    with pytest.raises(BrokerError, match="cannot be reached"):
        job.result()
    told = command(shards, "doctor")
    assert "warning  broker" in told
    assert f"{away} cannot be reached" in told
    with open_shards(shards.url) as clients:
        seen = Overview(Viewer(SIGNING_KEYS)).read(clients)
    assert {f"job:{one.id}" for one in (job, other, attached)} <= seen.keys()
    assert any(away in note for note in seen["notes"])
    assert sum(name.startswith("worker:") for name in seen) == sum(name.endswith("@2") for name in seen) + 1 == 2
    assert f"{away} cannot be reached" in command(shards, "priority", other.id, "16", code=ExitCode.BROKER)
    assert f"{away} cannot be reached" in command(shards, "cancel", other.id, code=ExitCode.BROKER)
    victim.redis.start()
    hold.unlink()
    np.testing.assert_array_equal(job.result(), ROWS * 2)
    np.testing.assert_array_equal(attached.result(), ROWS * 2)
    with pytest.raises(JobCancelledError):
        other.result()
    assert [state_on(system, other) for system in shards.systems] == ["cancelled"] * COUNT
    shards.wait_for_slots(*[1] * COUNT)
    queues = command(shards, "models", "--queue").split("\n")
    assert [line.split()[1] for line in queues if line] == [str(redacted(system.url)) for system in shards.systems]


def test_one_that_has_lost_its_data(shards: Shards, client: Client, hold: Path, path: str) -> None:
    in_redis, in_file = leave(client, ROWS), leave(client, path)
    victim = shards.systems[2]
    victim.redis.stop()
    victim.redis.forget()
    victim.redis.start()
    hold.unlink()
    np.testing.assert_array_equal(in_file.result(), ROWS * 2)
    with pytest.raises(RowsFailedError) as lost:
        in_redis.result()
    assert f"Redis at {redacted(victim.url)} has lost its part" in str(lost.value)
    assert f"{CHUNKS // COUNT} of {CHUNKS} chunks" in str(lost.value)
    assert "has lost its part" in command(shards, "status", in_redis.id)
    in_redis.cancel()
    assert in_redis.state is JobState.CANCELLED


def test_a_name_is_kept_by_the_first(shards: Shards, client: Client) -> None:
    one = client.submit("held", ROWS, chunk_rows=4, detach=True, job="nightly")
    assert client.submit("held", ROWS, chunk_rows=4, detach=True, job="nightly") == one == client.find("nightly")
    with pytest.raises(UsageError, match="does other work"):
        client.submit("held", ROWS + 1, chunk_rows=4, detach=True, job="nightly")
    np.testing.assert_array_equal(client.attach("nightly").result(), ROWS * 2)
    with shards.systems[2].admin() as server:  # as if a row had failed there
        server.hset(keys.job(one), "state", "failed")
    another = client.submit("held", ROWS, chunk_rows=4, detach=True, job="nightly")
    assert another != one
    assert state_on(shards.systems[0], client.attach(another)) in ("running", "done")
    assert f"job {another} is" in command(shards, "cancel", "nightly")


def test_a_name_whose_shard_has_no_chunks(
    shards: Shards, client: Client, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("producer.detached.submit.deal_of", lambda slots: (1, 2))
    one = client.submit("held", path, chunk_rows=4, detach=True, job="elsewhere")
    assert client.submit("held", path, chunk_rows=4, detach=True, job="elsewhere") == one
    job = client.attach("elsewhere")
    np.testing.assert_array_equal(job.result(), ROWS * 2)
    assert [len(answered(system, job)) for system in shards.systems] == [0, CHUNKS // 2, CHUNKS // 2]
    job.cancel()
    assert client.submit("held", path, chunk_rows=4, detach=True, job="elsewhere") != one


def test_an_executor_that_differs_on_one_is_known_to_all(shards: Shards, client: Client) -> None:
    job_id, model = "0123456789ab", ModelRef("m", "0" * 64)
    seen = Differed("m", "tflite", 4, "output y is 1 instead of 2")
    plan = Plan(8, 2, [model], None, None, 60, [], deal=(0, 1))
    servers = [system.admin() for system in shards.systems[:2]]
    for part, server in enumerate(servers):
        its = structs.replace(plan, part=part)
        job_store.create(server, job_store.new_record(job_id, [model], "rows", "redis", 8, its), SEALER, 60)
        job_store.claim_unsent(server, job_id)

    def answer(index: int, value: float, **more: Any) -> bool:
        told, outputs = message(job_id, plan, index), outputs_ref(job_id, index, np.full(2, value, np.float32))
        ready = Outputs(job_id, index, told.start, told.stop, "w/1", 0.1, outputs)
        return push(servers[plan.part_of(index)], structs.replace(ready, **more))

    job = client.attach(job_id)
    assert answer(1, -1.0, by_executor=["m"])
    parts = job.parts()
    assert answer(0, 2.0, by_executor=[], differed=[seen])
    assert next(parts).start == 0
    assert not servers[1].hkeys(keys.answers(job_id))
    assert job.record.void == 1
    with pytest.raises(VoidAnswerError):
        answer(1, -1.0, by_executor=["m"])
    assert all(answer(index, 2.0, by_executor=[]) for index in (1, 2, 3))
    np.testing.assert_array_equal(job.result(), np.full(8, 2.0))
    job.cancel()
    for server in servers:
        server.close()


def _first_line(text: str) -> str:
    return text.partition("\n")[0]
