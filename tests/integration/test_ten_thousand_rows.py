"""Ten thousand rows of which ten have no prediction: each of these is told with its cause, and every other is right."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
import redis

from producer import Client, Job, JobState
from producer.records.ledger import Ledger
from tasks.protocol import keys
from tasks.protocol.messages import FailureRecord, OnError
from tests.acceptance.commands import Celeriac
from tests.chunks import deaths, without_rows
from tests.manifests import write_manifest
from tests.systems import System, queues, serving
from tests.waiting import is_alive, wait_for_job, wait_until
from worker_config.errors import ExitCode, RowsFailedError

ROWS = 10_000
CHUNK_ROWS = 250
# The first and the last row, neighbours, one alone, one in a chunk with two that kill.
RAISE = [0, 1_234, 2_500, 2_501, 5_000, 7_777, 9_999]
DIE = [2_505, 6_400]
LOOP = [8_191]
BAD = sorted(RAISE + DIE + LOOP)
BUDGET = 5
CHUNK_SECONDS = 2
CHILDREN = 2
DEATHS_PER_ROW = 4

MODELS = """
import os
import signal
import threading


def meet(rows):
    kinds = set(rows[:, 0].tolist())
    if 2 in kinds:
        os.kill(os.getpid(), signal.SIGSEGV)
    if 3 in kinds:
        threading.Event().wait()
    if 1 in kinds:
        raise ValueError("a bad row")
    return rows


def doubled(rows):
    return rows * 2


def picky(rows):
    return doubled(meet(rows))
"""


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("s")
    (folder / "models_that_meet.py").write_text(MODELS)
    picky = {"path": "models_that_meet:picky", "batch_rows": 64}
    prepared = {"path": "models_that_meet:doubled", "batch_rows": 64, "preprocess": "models_that_meet:meet"}
    manifest = write_manifest(folder, {"picky": picky, "prepared": prepared})
    with serving(folder, manifest, CHILDREN, {"CELERIAC_CHUNK_TIMEOUT_SECONDS": str(CHUNK_SECONDS)}) as system:
        yield system


@pytest.fixture
def rows() -> np.ndarray:
    """Random ones; what each does to the models stands in column 0."""
    made = np.random.default_rng(17).random((ROWS, 3), np.float32)
    made[:, 0] = 0
    for kind, which in enumerate((RAISE, DIE, LOOP), 1):
        made[which, 0] = kind
    return made


def check_records(records: list[FailureRecord], stage: str, raised: str) -> None:
    """Exactly the bad rows, each with what it did; `stage` is where the others raise, and `raised` what."""
    told = {record.start: record for record in records}
    assert sorted(told) == BAD
    assert len(records) == len(BAD)
    assert all((record.stop, record.model) == (row + 1, "") for row, record in told.items())
    causes = {row: (record.stage, record.type, record.text) for row, record in told.items()}
    killed = "the child that ran it was killed by signal 11 (SIGSEGV)"
    assert causes == {
        **dict.fromkeys(RAISE, (stage, "ModelError", raised)),
        **dict.fromkeys(DIE, ("worker", "WorkerLostError", killed)),
        **dict.fromkeys(LOOP, ("worker", "TimeLimitExceeded", f"ran longer than {CHUNK_SECONDS} s")),
    }


def check_ledger(ledger: Ledger, chunks: int) -> None:
    ledger.check()
    assert (ledger.rows, ledger.predicted, ledger.failed, ledger.skipped) == (ROWS, ROWS - len(BAD), len(BAD), 0)
    assert (ledger.chunks_sent, ledger.chunks_answered, ledger.duplicates_differing) == (chunks, chunks, 0)


def deaths_so_far(system: System) -> int:
    """Counted when all children are up, so that each death stands in the log."""

    def all_up() -> bool:
        slots = system.slots()
        return len(slots) == CHILDREN and all(is_alive(slot.pid) for slot in slots)

    wait_until(all_up, "every child is replaced")
    return deaths(system.workers[0])


def check_keys(server: redis.Redis, job_id: str) -> None:
    """Nothing of a job that is over is left in Redis but its record, failures and timeline, which expire."""
    known = {key(job_id).encode() for key in (keys.job, keys.failures, keys.timeline)}
    wait_until(lambda: set(server.scan_iter(f"{keys.job(job_id)}*")) == known, "all else is gone")
    assert all(server.ttl(key) > 0 for key in known)
    wait_until(lambda: not queues(server), "no chunk waits")


def ended(job: Job) -> Any:
    wait_for_job(job)
    return job.result()


@pytest.mark.parametrize(
    ("model", "on_error", "stage", "raised"),
    [
        ("picky", "skip", "infer", "function models_that_meet:picky raised ValueError: a bad row"),
        ("prepared", "fill", "preprocess", "preprocess models_that_meet:meet raised ValueError: a bad row"),
    ],
)
def test_ten_rows_of_ten_thousand_cost_themselves_alone(
    system: System,
    client: Client,
    server: redis.Redis,
    rows: np.ndarray,
    model: str,
    on_error: OnError,
    stage: str,
    raised: str,
) -> None:
    before = deaths_so_far(system)
    job = client.submit(model, rows, chunk_rows=CHUNK_ROWS, on_error=on_error)
    outputs = ended(job)

    if on_error == "fill":
        assert len(outputs) == ROWS
        assert np.isnan(outputs[BAD]).all()
        outputs = without_rows(outputs, BAD)
    np.testing.assert_array_equal(outputs, without_rows(rows, BAD) * 2)
    check_ledger(job.ledger, chunks=ROWS // CHUNK_ROWS)
    check_records(job.failures(), stage, f"model {model}: {raised}")
    assert deaths_so_far(system) - before <= DEATHS_PER_ROW * len(DIE + LOOP)
    assert system.workers[0].process.poll() is None
    check_keys(server, job.id)


def test_a_budget_ends_the_job_and_what_came_before_is_kept(
    client: Client, server: redis.Redis, rows: np.ndarray
) -> None:
    job = client.submit("picky", rows, chunk_rows=CHUNK_ROWS, on_error="skip", max_failed=BUDGET)
    parts = []
    with pytest.raises(RowsFailedError, match=r"\d+ rows failed, at most 5 may \(max_failed\)"):
        parts.extend(job.parts())

    wait_for_job(job)
    assert job.state is JobState.FAILED
    assert [part.start for part in parts] == list(range(0, CHUNK_ROWS * len(parts), CHUNK_ROWS))
    stop = parts[-1].stop
    bad = [row for row in BAD if row < stop]
    outputs = np.concatenate([part.outputs for part in parts])
    np.testing.assert_array_equal(outputs, without_rows(rows[:stop], bad) * 2)
    assert [record.start for part in parts for record in part.failed] == bad
    job.ledger.check(handed_over=False)
    assert job.ledger.written == stop - len(bad)
    assert BUDGET < job.ledger.failed == len(job.failures())
    check_keys(server, job.id)


def test_the_command_tells_them_beside_the_output(
    system: System, server: redis.Redis, celeriac: Celeriac, rows: np.ndarray
) -> None:
    np.save(celeriac.folder / "rows.npy", rows)
    at = ["--broker", system.url, "--json"]
    words = ["predict", "picky", "rows.npy", "-o", "out.npy", "--on-error", "skip", "--chunk-rows", CHUNK_ROWS]
    ended = celeriac.run(*words, *at)
    assert ended.code == ExitCode.OK, ended

    np.testing.assert_array_equal(np.load(celeriac.folder / "out.npy"), without_rows(rows, BAD) * 2)
    check_ledger(Ledger(**ended.json["ledger"]), chunks=ROWS // CHUNK_ROWS)
    beside = (celeriac.folder / "out.npy.failures.jsonl").read_bytes()
    raised = "model picky: function models_that_meet:picky raised ValueError: a bad row"
    check_records(msgspec.json.Decoder(FailureRecord).decode_lines(beside), "infer", raised)

    told = celeriac.succeeds("failures", ended.json["job"], *at).json
    assert (told["state"], told["rows_failed"]) == ("done", len(BAD))
    check_records(msgspec.convert(told["failures"], list[FailureRecord]), "infer", raised)
    check_keys(server, ended.json["job"])
