"""`predict --detach -o OUT/` and `fetch`: workers write the output of a job that no process owns, whatever dies."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from producer.outputs.sidecar_files import read_beside
from producer.records import job_store
from producer.records.job_store import JobState
from tasks.protocol import keys
from tests.acceptance.commands import Celeriac, Ended
from tests.held import held_child, held_children, holding, write_held_models
from tests.manifests import write_manifest
from tests.output_sets import assert_same, names_in
from tests.systems import System, serving
from tests.waiting import wait_until
from worker_config.errors import ExitCode

ROWS, CHUNK_ROWS = 900, 64
# Of which the last third can be held.
HELD = 42.0
BAD = [5, *range(128, 192), 700]

STEPS = """
import numpy as np


def table(rows):
    values = np.asarray(rows["value"] if isinstance(rows, dict) else rows, np.float64).reshape(len(rows["value"]))
    if (values < 0).any():
        raise ValueError("a bad row")
    return {"half": values / 2, "text": np.array([f"{value:.0f}" for value in values], object)}
"""


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("s")
    (folder / "steps.py").write_text(STEPS)
    entries = {"table": {"path": "steps:table", "batch_rows": 32, "columns": {"value": ["value"]}}}
    manifest = write_manifest(folder, {**entries, **write_held_models(folder)})
    root = str(tmp_path_factory.getbasetemp())
    environ = {"CELERIAC_OUTPUT_ROOTS": root, "CELERIAC_DATA_ROOTS": root}
    with serving(folder, manifest, environ=environ) as system:
        yield system


@pytest.fixture
def celeriac(celeriac: Celeriac) -> Celeriac:
    values = np.arange(ROWS, dtype=np.float64)
    values[BAD] = -1
    table = pa.table({"id": [f"id {row}" for row in range(ROWS)], "value": values})
    pq.write_table(table, celeriac.folder / "bad.parquet", row_group_size=100)
    pq.write_table(table.set_column(1, "value", pa.array(np.arange(ROWS) * 1.0)), celeriac.folder / "rows.parquet")
    rows = np.arange(4 * ROWS, dtype=np.float32).reshape(ROWS, 4) + 1_000
    rows[600:] = HELD
    np.save(celeriac.folder / "rows.npy", rows)
    return celeriac


def leave(celeriac: Celeriac, at: list[str], *words: object) -> str:
    """Leave a job with the broker; returns its id."""
    ended = celeriac.start("predict", *words, "--chunk-rows", CHUNK_ROWS, "--detach", "--quiet", *at).end()
    assert (ended.code, ended.lines) == (ExitCode.OK, []), ended
    job = ended.stdout.strip()
    assert re.fullmatch("[0-9a-f]{12}", job)
    return job


def fetch(celeriac: Celeriac, at: list[str], job: str, *words: object) -> Ended:
    ended = celeriac.start("fetch", job, *at, "--json", *words).end()
    assert "Traceback" not in ended.stderr, ended
    return ended


def attached(celeriac: Celeriac, at: list[str], *words: object) -> Ended:
    return celeriac.run("predict", *words, "--chunk-rows", CHUNK_ROWS, "--json", *at)


# --- the same as an attached job --------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".zarr"])
def test_the_output_is_that_of_an_attached_job(celeriac: Celeriac, system: System, at: list[str], suffix: str) -> None:
    out, file = celeriac.folder / f"out{suffix}", celeriac.folder / f"file{suffix}"
    job = leave(celeriac, at, "table", "rows.parquet", "-o", f"{out}/")
    ended = fetch(celeriac, at, job)
    assert (ended.code, ended.lines) == (ExitCode.OK, []), ended
    whole = attached(celeriac, at, "table", "rows.parquet", "-o", file)
    assert_same(out, file)
    for name in ("rows", "predicted", "failed", "skipped", "written"):
        assert ended.json["ledger"][name] == whole.json["ledger"][name], name
    ours, theirs = read_beside(out)[0], read_beside(file)[0]
    assert ours.job == job
    assert (ours.source, ours.models, ours.sources) == (theirs.source, theirs.models, theirs.sources)
    again = fetch(celeriac, at, job)
    assert again.code == ExitCode.OK
    assert again.json["done_before"]


@pytest.mark.parametrize("on_error", ["skip", "fill"])
def test_rows_that_fail_and_columns_that_are_kept_are_as_in_an_attached_job(
    celeriac: Celeriac, at: list[str], on_error: str
) -> None:
    out, file = celeriac.folder / "out.parquet", celeriac.folder / "file.parquet"
    words = ("table", "bad.parquet", "--on-error", on_error, "--keep", "id")
    ended = fetch(celeriac, at, job := leave(celeriac, at, *words, "-o", f"{out}/"))
    assert ended.code == ExitCode.OK, ended
    whole = attached(celeriac, at, *words, "-o", file)
    assert_same(out, file)
    assert read_beside(out)[1] == read_beside(file)[1]
    for name in ("rows", "predicted", "failed", "skipped", "written"):
        assert ended.json["ledger"][name] == whole.json["ledger"][name], name
    told = celeriac.succeeds("failures", job, *at, "--json").json
    assert told["rows_failed"] == len(BAD)
    assert sorted(one["start"] for one in told["failures"]) == BAD


# --- what dies --------------------------------------------------------------------------------------------------------


def is_locked(path: Path) -> bool:
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def check_held(celeriac: Celeriac, ended: Ended) -> None:
    assert ended.code == ExitCode.OK, ended
    rows = np.load(celeriac.folder / "rows.npy")
    names = names_in(celeriac.folder / "out.npy")
    outputs = np.concatenate([np.load(celeriac.folder / "out.npy" / name) for name in names])
    np.testing.assert_array_equal(outputs, rows * 2)
    assert ended.json["ledger"]["written"] == ROWS
    assert celeriac.hidden_names() == set()


def test_a_fetch_that_is_killed_is_continued_by_the_next_and_of_two_one_does_it(
    celeriac: Celeriac, system: System, at: list[str]
) -> None:
    with holding(system.folder, HELD) as let_go:
        out = celeriac.folder / "out.npy"
        job = leave(celeriac, at, "held", "rows.npy", "-o", f"{out}/")
        first = celeriac.start("fetch", job, *at, "--json")
        wait_until(lambda: is_locked(celeriac.folder / ".out.npy.journal"), "the fetch has begun")
        second = celeriac.start("fetch", job, *at).end()
        assert (second.code, len(second.lines)) == (ExitCode.USAGE, 1), second
        assert "another process is writing it" in second.lines[0]
        first.signal(signal.SIGKILL)
        let_go()
        ended = fetch(celeriac, at, job)
    check_held(celeriac, ended)


def test_a_child_that_is_killed_costs_nothing(celeriac: Celeriac, system: System, at: list[str]) -> None:
    with holding(system.folder, HELD) as let_go:
        job = leave(celeriac, at, "held", "rows.npy", "-o", f"{celeriac.folder}/out.npy/")
        os.kill(wait_until(lambda: held_child(system.folder), "a child is held"), signal.SIGKILL)
        let_go()
        ended = fetch(celeriac, at, job)
    check_held(celeriac, ended)


def test_a_job_that_redis_has_lost_is_continued_by_its_parts(celeriac: Celeriac, system: System, at: list[str]) -> None:
    words = ("held", "rows.npy", "-o", f"{celeriac.folder}/out.npy/")
    job = leave(celeriac, at, *words)
    with system.admin() as server:
        wait_until(lambda: job_store.state_of(server, job) is JobState.DONE, "the job is done")
        job_store.remove(server, job)
    told = celeriac.start("fetch", job, *at).end()
    assert told.code == ExitCode.USAGE
    assert "--resume" in told.lines[0]
    refused = celeriac.start("predict", *words, *at).end()
    assert (refused.code, f"job {job}" in refused.lines[0]) == (ExitCode.USAGE, True)
    ended = attached(celeriac, at, *words, "--resume")
    check_held(celeriac, ended)
    assert ended.json["ledger"]["resumed"] == ROWS
    assert ended.json["ledger"]["chunks_sent"] <= 1


def test_who_goes_on_with_resume_takes_the_output_from_the_job(
    celeriac: Celeriac, system: System, at: list[str]
) -> None:
    words = ("held", "rows.npy", "-o", f"{celeriac.folder}/out.npy/")
    with holding(system.folder, HELD) as let_go:
        job = leave(celeriac, at, *words)
        wait_until(lambda: held_child(system.folder), "rows are held")
        resumed = celeriac.start("predict", *words, *at, "--resume", "--json")
        journal = celeriac.folder / ".out.npy.journal"
        wait_until(lambda: b"taken" in journal.read_bytes(), "it has the output")
        resumed.signal(signal.SIGKILL)
        told = celeriac.start("fetch", job, *at).end()
        assert (told.code, "--resume" in told.lines[0]) == (ExitCode.USAGE, True), told
        let_go()
    check_held(celeriac, attached(celeriac, at, *words, "--resume"))
    celeriac.succeeds("cancel", job, *at)


@pytest.mark.parametrize("reached", [True, False])
def test_what_a_cancelled_job_has_left_goes_with_it_where_it_can_be_reached(
    celeriac: Celeriac, system: System, at: list[str], reached: bool
) -> None:
    words = ("held", "rows.npy", "-o", f"{celeriac.folder}/out.npy/")
    with holding(system.folder, HELD) as let_go:
        job = leave(celeriac, at, *words)
        wait_until(lambda: len(held_children(system.folder)) == 2, "no child writes any more")
        if not reached:
            celeriac.folder.rename(away := celeriac.folder.with_name("away"))
            celeriac.folder.mkdir()
        told = celeriac.start("cancel", job, *at).end()
        let_go()
    assert told.code == ExitCode.OK, told
    if reached:
        assert celeriac.hidden_names() == set()
        assert "gone" in told.stdout
        return
    assert f"{celeriac.folder}/.out.npy.part" in told.stdout
    celeriac.folder.rmdir()
    away.rename(celeriac.folder)
    ended = attached(celeriac, at, *words, "--force")
    check_held(celeriac, ended)


def test_a_row_that_fails_ends_the_job_and_what_was_done_is_continued(
    celeriac: Celeriac, system: System, at: list[str]
) -> None:
    out, file = celeriac.folder / "out.parquet", celeriac.folder / "file.parquet"
    shutil.copy(celeriac.folder / "bad.parquet", celeriac.folder / "mended.parquet")
    words = ("table", "mended.parquet", "-o", f"{out}/")
    job = leave(celeriac, at, *words)
    ended = fetch(celeriac, at, job)
    assert ended.code == ExitCode.ROWS_FAILED, ended
    assert "--resume" in ended.lines[-1]
    shutil.copy(celeriac.folder / "rows.parquet", celeriac.folder / "mended.parquet")
    ended = attached(celeriac, at, *words, "--resume", "--accept-changes")
    assert ended.code == ExitCode.OK, ended
    attached(celeriac, at, "table", "rows.parquet", "-o", file)
    assert_same(out, file)


# --- names, and what is refused ---------------------------------------------------------------------------------------


def test_a_job_with_a_name_is_left_once_and_found_by_it(celeriac: Celeriac, system: System, at: list[str]) -> None:
    words = ("held", "rows.npy", "-o", f"{celeriac.folder}/out.npy/", "--job", "nightly")
    with holding(system.folder, HELD) as let_go:
        job = leave(celeriac, at, *words)
        assert leave(celeriac, at, *words) == job
        other = celeriac.start("predict", "held", "rows.npy", "-o", "o.npy/", "--job", "nightly", "--detach", *at).end()
        assert (other.code, "does other work" in other.stderr) == (ExitCode.USAGE, True), other
        other = celeriac.start("predict", *words, "--on-error", "skip", "--detach", *at).end()
        assert (other.code, "treated otherwise" in other.stderr) == (ExitCode.USAGE, True), other
        assert celeriac.succeeds("status", "nightly", *at, "--json").json["job"] == job
        let_go()
    assert celeriac.run("watch", "nightly", *at).code == ExitCode.OK
    check_held(celeriac, fetch(celeriac, at, "nightly"))
    assert job in celeriac.succeeds("failures", "nightly", *at).stdout
    assert job in celeriac.succeeds("cancel", "nightly", *at).stdout


def test_what_cannot_be_left_is_refused_and_leaves_nothing(celeriac: Celeriac, at: list[str]) -> None:
    words = ("predict", "table", "rows.parquet", "--detach", *at)
    assert "end it with a /" in celeriac.misused(*words, "-o", "out.parquet")
    told = celeriac.start(*words, "-o", "/nowhere.parquet/").end().stderr
    assert told.startswith("celeriac: /: ")
    assert "start the workers with CELERIAC_OUTPUT_ROOTS=/, or leave out the output, and have `celeriac fetch" in told
    assert not Path("/nowhere.parquet").exists()
    assert "--keep makes no sense" in celeriac.misused(*words, "--keep", "id")


def test_outputs_need_no_room_in_redis(celeriac: Celeriac, system: System, at: list[str]) -> None:
    """A job that may keep a MiB there has outputs of 12."""
    np.save(celeriac.folder / "large.npy", rows := np.random.default_rng(1).random((3_000, 1_000), np.float32))
    out = celeriac.folder / "out.npy"
    words = ("predict", "held", "large.npy", "--detach", "-o", f"{out}/", "--quiet", *at)
    job = celeriac.start(*words, "--chunk-rows", 100, CELERIAC_DETACHED_MIB="1").end().stdout.strip()
    assert fetch(celeriac, at, job).code == ExitCode.OK
    with system.admin() as server:
        assert server.hlen(keys.answers(job)) == 30
        assert server.memory_usage(keys.answers(job)) < 30 * 2**10
    outputs = np.concatenate([np.load(out / name) for name in names_in(out)])
    np.testing.assert_array_equal(outputs, rows * 2)
