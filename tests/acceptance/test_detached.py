"""`predict --detach`, `fetch`, `watch`, `status` and `cancel` as people use them, on a job that no process owns."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from producer.records import job_store
from producer.records.job_store import JobState
from tasks.protocol import keys
from tasks.protocol.messages import ModelRef
from tasks.protocol.plan import Plan
from tasks.protocol.records import JobRecord
from tests.acceptance.commands import Celeriac, Ended, read_all
from tests.held import holding, write_held_models
from tests.manifests import by_stem, write_manifest
from tests.models import in_one_process
from tests.output_sets import assert_same, read_folder
from tests.seals import SEALER
from tests.systems import System, serving
from tests.waiting import wait_until
from worker_config.broker import KEY_PREFIX
from worker_config.errors import ExitCode

ROWS = 1_000
# Of the rows of a job that is held in the middle: 20 chunks of 64.
MANY_ROWS, HALF = 1_280, 640


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, models: Path, special_models: Path) -> Iterator[System]:
    """A Redis and a worker with two children; its models are `held`, `words`, `digits` and `pair`."""
    folder = tmp_path_factory.mktemp("s")
    paths = by_stem(special_models / "words.keras", models / "digits.keras", models / "pair.keras")
    with serving(folder, write_manifest(folder, {**paths, **write_held_models(folder)})) as system:
        yield system


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(6).random((ROWS, 64), np.float32)


def leave(celeriac: Celeriac, rows: np.ndarray, model: str, at: list[str], *words: object) -> str:
    """Leave a job with the broker, by a command that has ended; returns its id."""
    np.save(celeriac.folder / "rows.npy", rows)
    ended = celeriac.run("predict", model, "rows.npy", "--detach", "--quiet", *at, *words)
    assert (ended.code, ended.stderr) == (ExitCode.OK, ""), ended
    job = ended.stdout.strip()
    assert re.fullmatch("[0-9a-f]{12}", job)
    return job


def many_rows() -> np.ndarray:
    """Of which the second half can be held."""
    rows = np.ones((MANY_ROWS, 4), np.float32)
    rows[HALF:] = 42
    return rows


@pytest.fixture
def held(system: System) -> Iterator[None]:
    """No more than half of `many_rows` is done while a test runs."""
    with holding(system.folder, 42):
        yield


@pytest.fixture
def held_job(held: None, celeriac: Celeriac, system: System, at: list[str]) -> Iterator[str]:
    """A job of which half is done."""
    job = leave(celeriac, many_rows(), "held", at, "--chunk-rows", 64)
    half_done = f"{HALF} of {MANY_ROWS} predicted"
    wait_until(lambda: status_of(celeriac, job, at)["rows"] == half_done, "half of it is done")
    yield job
    with system.admin() as server:
        job_store.cancel(server, job)


def cancel(celeriac: Celeriac, job: str, at: list[str]) -> Ended:
    return celeriac.succeeds("cancel", job, *at)


def status_of(celeriac: Celeriac, job: str, at: list[str]) -> dict[str, str]:
    lines = celeriac.succeeds("status", job, *at).stdout.splitlines()
    return {name: text.strip() for name, text in (line.split(None, 1) for line in lines)}


# --- left, watched, fetched -----------------------------------------------------------------------------------------


def test_a_job_is_left_watched_and_fetched_twice(
    celeriac: Celeriac, at: list[str], models: Path, pixels: np.ndarray
) -> None:
    job = leave(celeriac, pixels, "digits", at, "--chunk-rows", 37)
    watched = celeriac.run("watch", job[:6], *at)
    assert watched.code == ExitCode.OK
    assert watched.stdout == (
        f"job {job} is done: 1000 of 1000 rows predicted; `celeriac fetch {job} -o OUTPUT` writes them\n"
    )
    expected = in_one_process(models / "digits.keras", pixels)
    for number, output in enumerate(("one.npy", "two.npy")):
        ended = celeriac.succeeds("fetch", job[: 6 + number], "-o", output, *at, "--json")
        summary = ended.json
        np.testing.assert_allclose(np.load(celeriac.folder / output), expected, rtol=1e-5, atol=1e-6)
        assert re.match(rf"1,000 rows of job {job}, predicted in [0-9.]+ s, written to .*{output}\n", ended.stdout)
        assert (summary["job"], summary["output"]) == (job, str(celeriac.folder / output))
        assert summary["seconds"] > 0
        assert (summary["ledger"]["rows"], summary["ledger"]["written"]) == (ROWS, ROWS)
        assert (summary["ledger"]["chunks_sent"], summary["ledger"]["chunks_answered"]) == (28, 28)
    assert celeriac.succeeds("fetch", job, "-o", "three.npy", *at, "--quiet").stdout == ""


def test_a_folder_of_files_is_fetched(celeriac: Celeriac, at: list[str], models: Path, pixels: np.ndarray) -> None:
    job = leave(celeriac, pixels, "digits", at, "--chunk-rows", 37)
    for suffix in (".parquet", ".zarr"):
        folder, file = celeriac.folder / f"out{suffix}", celeriac.folder / f"one{suffix}"
        ended = celeriac.succeeds("fetch", job, "-o", f"out{suffix}/", *at, "--json")
        assert ended.json["ledger"]["written"] == ROWS
        celeriac.succeeds("fetch", job, "-o", file.name, *at)
        assert_same(folder, file)
        refused = celeriac.refuses(ExitCode.USAGE, "fetch", job, "-o", f"out{suffix}/", *at)
        assert "exists; use --force to replace it" in refused
        celeriac.succeeds("fetch", job, "-o", f"out{suffix}/", "--force", *at)
        assert_same(folder, file)
    assert read_folder(celeriac.folder / "out.parquet")["row"].to_pylist() == [*range(ROWS)]
    assert "is a folder; name a file in it" in celeriac.refuses(
        ExitCode.USAGE, "fetch", job, "-o", "out.parquet", "--force", *at
    )


def test_what_is_left_says_where_it_is_and_for_how_long(celeriac: Celeriac, at: list[str], pixels: np.ndarray) -> None:
    np.save(celeriac.folder / "rows.npy", pixels)
    ended = celeriac.run("predict", "digits", "rows.npy", "--detach", *at)
    job = ended.stdout.strip()
    (line,) = ended.lines
    assert re.match(r"1,000 rows left by way of redis, kept until \d{4}-\d\d-\d\d \d\d:\d\d .* or longer", line)
    assert f"`celeriac fetch {job} -o OUTPUT`" in line

    told = celeriac.succeeds(
        *("predict", "digits", "rows.npy", "--detach", *at, "--json"), *("--ttl-seconds", 600, "--chunk-rows", 100)
    ).json
    assert told.keys() == {"job", "rows", "chunks", "store", "expires_at", "output"}
    assert (told["rows"], told["chunks"], told["store"]) == (ROWS, 10, "redis")
    assert 500 < told["expires_at"] - time.time() <= 601


def test_a_fetch_waits_with_a_bar_and_ctrl_c_leaves_the_job_where_it_is(
    celeriac: Celeriac, at: list[str], held_job: str
) -> None:
    job = held_job
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    running = celeriac.start("fetch", job, "-o", "out.npy", *at, stderr=theirs)
    os.close(theirs)
    done = (many_rows()[:HALF] * 2).tobytes()
    unfinished = celeriac.folder.glob
    wait_until(lambda: any(done in path.read_bytes() for path in unfinished(".out.npy.*")), "what is done is fetched")
    running.signal(signal.SIGINT)
    text = read_all(ours)
    ended = running.end()
    assert ended.code == ExitCode.CANCELLED
    assert re.search(rf" [1-9]\d*/{MANY_ROWS} ", text)
    assert re.search(
        rf"celeriac: interrupted: [1-9]\d* of {MANY_ROWS} rows were fetched, nothing was written; job {job} stays in "
        "the system: fetch it again",
        text,
    )
    assert "Traceback" not in text
    assert [path.name for path in celeriac.folder.iterdir()] == ["rows.npy"]
    assert status_of(celeriac, job, at)["state"] == "running"


def test_a_row_that_failed_ends_fetch_and_watch_with_its_record(celeriac: Celeriac, at: list[str]) -> None:
    words = np.zeros((40, 3), np.int32)
    words[25] = 17
    job = leave(celeriac, words, "words", at, "--chunk-rows", 10)
    ended = celeriac.run("fetch", job, "-o", "out.npy", *at, "--json")
    assert ended.code == ExitCode.ROWS_FAILED
    celeriac.check_one_line(ended)
    assert f"job {job} failed: row 25 failed at infer" in ended.lines[0]
    assert (ended.json["output"], ended.json["ledger"]["failed"], ended.json["ledger"]["written"]) == (None, 1, 0)
    line = celeriac.refuses(ExitCode.ROWS_FAILED, "watch", job, *at)
    assert re.match(rf"celeriac: job {job} has failed: \d+ of 40 rows predicted: row 25 failed at infer", line)
    shown = status_of(celeriac, job, at)
    assert shown["state"] == "failed"
    assert "row 25 failed" in shown["error"]
    assert "next" not in shown
    assert cancel(celeriac, job, at).stdout == f"job {job} has failed already\n"


def test_the_status_says_how_far_it_is_how_long_it_is_kept_and_what_to_do(
    celeriac: Celeriac, at: list[str], held_job: str
) -> None:
    job = held_job
    shown = status_of(celeriac, job, at)
    assert shown["state"] == "running"
    assert shown["submitted"].endswith(", detached")
    assert shown["slots"] == "2 can run it now"
    assert re.match(r"until \d{4}-\d\d-\d\d \d\d:\d\d", shown["kept"])
    assert shown["next"] == f"celeriac fetch {job} -o OUTPUT, which waits for its end"
    listed = {
        line.split()[0]: line.split() for line in celeriac.succeeds("jobs", "--limit", 0, *at).stdout.splitlines()
    }
    assert int(listed[job][4]) == HALF, listed[job]
    told = celeriac.succeeds("status", job, *at, "--json").json
    assert (told["job"], told["state"], told["detached"], told["slots"]) == (job, "running", True, 2)
    assert told["expires_at"] > time.time() + 80_000
    assert told["ledger"]["predicted"] == HALF
    assert "plan" not in told

    assert cancel(celeriac, job[:6], at).stdout == f"job {job} is cancelled; its rows and outputs are gone\n"
    assert status_of(celeriac, job, at)["state"] == "cancelled"
    assert cancel(celeriac, job, at).stdout == f"job {job} is cancelled already\n"
    line = celeriac.refuses(ExitCode.CANCELLED, "fetch", job, "-o", "out.npy", *at)
    assert f"job {job} was cancelled" in line
    celeriac.refuses(ExitCode.CANCELLED, "watch", job, *at)


def test_the_status_of_a_finished_one_is_to_fetch_it_and_cancel_forgets_its_outputs(
    celeriac: Celeriac, system: System, at: list[str], pixels: np.ndarray
) -> None:
    job = leave(celeriac, pixels, "digits", at)
    assert celeriac.run("watch", job, *at).code == ExitCode.OK
    shown = status_of(celeriac, job, at)
    assert (shown["state"], shown["rows"]) == ("done", "1000 of 1000 predicted")
    assert shown["next"] == f"celeriac fetch {job} -o OUTPUT"
    assert "slots" not in shown
    cancel(celeriac, job, at)
    with system.admin() as server:
        assert list(server.scan_iter(keys.job(job) + "*")) == [keys.job(job).encode()]
        # Celery's queue and its bindings are not of a job.
        ours = [name for name in server.scan_iter(KEY_PREFIX + "*") if name.startswith(b"celeriac:job")]
        assert all(server.ttl(name) > 0 for name in ours)


# --- watch ----------------------------------------------------------------------------------------------------------


def test_watch_says_a_line_now_and_then_until_the_job_is_cancelled(
    celeriac: Celeriac, at: list[str], held_job: str
) -> None:
    job = held_job
    running = celeriac.start("watch", job, *at, "--json")
    wait_until(lambda: f"job {job} is running: " in running.stderr.read_text(), "the first line")
    cancel(celeriac, job, at)
    ended = running.end()
    assert ended.code == ExitCode.CANCELLED
    assert "Traceback" not in ended.stderr
    assert re.match(rf"celeriac: job {job} is cancelled: {HALF} of {MANY_ROWS} rows predicted$", ended.lines[-1])
    assert (ended.json["job"], ended.json["state"]) == (job, "cancelled")


@pytest.mark.usefixtures("held")
def test_watch_follows_an_attached_job_too_and_ctrl_c_ends_the_watching_alone(
    celeriac: Celeriac, system: System, at: list[str]
) -> None:
    np.save(celeriac.folder / "rows.npy", many_rows())
    predicting = celeriac.start("predict", "held", "rows.npy", "-o", "out.npy", "--chunk-rows", 64, *at)
    job = predicting.job_that_predicts(system.url).id
    watching = celeriac.start("watch", job, *at)
    interrupted = celeriac.start("watch", job, *at)
    for running in (watching, interrupted):
        wait_until(lambda running=running: "is running: " in running.stderr.read_text(), "the first line")
    interrupted.signal(signal.SIGINT)
    ended = interrupted.end()
    assert (ended.code, ended.lines[-1]) == (
        ExitCode.CANCELLED,
        f"celeriac: interrupted: job {job} goes on without being watched",
    )
    line = celeriac.start("fetch", job, "-o", "other.npy", *at).end()
    assert line.code == ExitCode.USAGE
    celeriac.check_one_line(line)
    assert f"job {job} was not detached: its producer" in line.lines[0]
    assert cancel_running(celeriac, job, at) == f"job {job} is being cancelled\n"
    predicting.end()
    ended = watching.end()
    assert ended.code == ExitCode.CANCELLED
    assert f"job {job} is cancelled" in ended.lines[-1]


def cancel_running(celeriac: Celeriac, job: str, at: list[str]) -> str:
    """While other commands of ours run."""
    return celeriac.start("cancel", job, *at).end().stdout


def test_watch_says_once_that_a_producer_gives_no_sign_of_life(
    celeriac: Celeriac, system: System, at: list[str]
) -> None:
    job = "0123456789ab"
    long_ago = time.time() - 36_100
    silent = JobRecord(job, ["digits@0"], "rows.npy", "redis", 9, 0.0, long_ago, "there:1", {"predicted": 4})
    with system.admin() as server:
        job_store.create(server, silent, SEALER, 600)
        running = celeriac.start("watch", job, *at)
        wait_until(lambda: "no sign of life" in running.stderr.read_text(), "it is told")
        assert "celeriac cancel" in status_of_running(celeriac, job, at)
        failed = msgspec.structs.replace(silent, error="it went wrong")
        lines = running.stderr.read_text().count("is running: ")
        wait_until(lambda: running.stderr.read_text().count("is running: ") > lines, "another line")
        job_store.finish(server, failed, SEALER, JobState.FAILED, 600)
    ended = running.end()
    assert ended.code == ExitCode.ROWS_FAILED
    assert ended.stderr.count("its producer there:1 has given no sign of life for 10 h") == 1
    assert ended.lines[-1] == f"celeriac: job {job} has failed: 4 of 9 rows predicted: it went wrong"


def status_of_running(celeriac: Celeriac, job: str, at: list[str]) -> str:
    return celeriac.start("status", job, *at).end().stdout


def test_a_fetch_that_finds_no_worker_says_that_the_job_stays(
    celeriac: Celeriac, system: System, at: list[str]
) -> None:
    job, ref = "ba9876543210", ModelRef("absent", "ab" * 32)
    plan = Plan(9, 3, [ref], None, None, 600, [])
    record = JobRecord(job, [str(ref)], "rows.npy", "redis", 9, 0.0, 0.0, "there:1", {}, plan=plan)
    with system.admin() as server:
        job_store.create(server, record, SEALER, 600)
    words = ["fetch", job, "-o", "out.npy", *at, "--worker-timeout-seconds", 0]
    line = celeriac.refuses(ExitCode.NO_WORKER, *words)
    assert line.startswith(f"celeriac: no worker has held absent@abababab for 0 seconds; job {job} stays in the system")
    assert status_of(celeriac, job, at)["next"] == "start a worker that holds absent@abababab"


# --- wrong ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--detach", "-o", "out.npy"], ["--output", "--detach", "celeriac fetch"]),
        (["--detach", "--force"], ["--force", "--detach"]),
        (["--detach", "--workers", "2"], ["--workers", "embedded"]),
        (["--detach", "--ttl-seconds", "59"], ["--ttl-seconds", "x>=60"]),
        (["--ttl-seconds", "600", "-o", "out.npy"], ["--ttl-seconds", "--detach"]),
        (["--detach"], ["--detach needs a broker", "CELERIAC_BROKER_URL"]),
    ],
)
def test_options_that_make_no_sense_are_shown_with_the_usage(
    celeriac: Celeriac, pixels: np.ndarray, words: list[str], told: list[str]
) -> None:
    np.save(celeriac.folder / "rows.npy", pixels)
    line = celeriac.misused("predict", "digits", "rows.npy", *words)
    for text in told:
        assert text in line


def test_what_cannot_be_left_is_one_line(celeriac: Celeriac, at: list[str], pixels: np.ndarray) -> None:
    np.save(celeriac.folder / "rows.npy", np.tile(pixels, (6, 1)))
    predict = ["predict", "digits", "rows.npy", "--detach", *at]
    assert "spool folder" in celeriac.refuses(ExitCode.USAGE, *predict, "--store", "files")
    line = celeriac.refuses(ExitCode.USAGE, *predict, CELERIAC_DETACHED_MIB="1")
    for text in ("6,000 rows need 1.7 MiB", "1 MiB", "CELERIAC_DETACHED_MIB", "CELERIAC_DATA_ROOTS", "attached"):
        assert text in line
    assert "CELERIAC_DETACHED_MIB" in celeriac.refuses(ExitCode.USAGE, *predict, CELERIAC_DETACHED_MIB="none")


@pytest.mark.parametrize("words", [["fetch", "nobody", "-o", "out.npy"], ["watch", "nobody"]])
def test_a_job_that_nobody_knows_is_told_with_where_to_look(
    celeriac: Celeriac, at: list[str], words: list[str]
) -> None:
    assert "`celeriac jobs` lists them" in celeriac.refuses(ExitCode.USAGE, *words, *at)


def test_an_output_that_exists_or_cannot_be_written_is_refused_before_the_wait(
    celeriac: Celeriac, at: list[str], pixels: np.ndarray
) -> None:
    job = leave(celeriac, pixels, "digits", at)
    (celeriac.folder / "out.npy").write_text("mine")
    assert "exists; use --force" in celeriac.refuses(ExitCode.USAGE, "fetch", job, "-o", "out.npy", *at)
    assert "'.txt' cannot be written" in celeriac.refuses(ExitCode.USAGE, "fetch", job, "-o", "out.txt", *at)
    celeriac.succeeds("fetch", job, "-o", "out.npy", "--force", *at)
    assert np.load(celeriac.folder / "out.npy").shape == (ROWS, 10)
    assert "--output" in celeriac.misused("fetch", job, *at)
    assert "no broker" in celeriac.refuses(ExitCode.USAGE, "fetch", job, "-o", "new.npy")
    assert "no broker" in celeriac.refuses(ExitCode.USAGE, "watch", job)
