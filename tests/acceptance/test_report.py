"""`celeriac report`: the page of real jobs, looked at in a real browser; and what it says where there is none."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from producer import Client, Job
from producer.cli.report import report
from producer.records import job_store, timeline_store
from producer.records.job_store import JobState
from tasks.protocol import keys
from tasks.protocol.messages import ModelRef
from tests import browser
from tests.acceptance.commands import Celeriac
from tests.manifests import write_manifest
from tests.seals import SEALER
from tests.systems import System, serving
from tests.waiting import wait_until
from worker_config.errors import ExitCode, UnknownJobError, UsageError

# In column 0, what a row does.
FINE, RAISES, DIES_ONCE = range(3)
CHUNK_ROWS = 8
CHUNKS = 40
SECTIONS = ["Ledger", "Timeline", "Throughput", "Stages", "Slowest chunks", "Failures", "Provenance"]

MODEL = """
import os
import signal
from pathlib import Path

import numpy as np

MARK = Path(__file__).with_name("died")


def touchy(rows):
    kinds = set(rows[:, 0].astype(int).tolist())
    if 1 in kinds:
        raise ValueError("<script>alert('a bad row')</script>")
    if 2 in kinds and not MARK.exists():
        MARK.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    values = np.linspace(0.0, 1.0, 300_000)
    for _ in range(3):
        values = np.sin(values)
    return rows * 2 + 0 * values[0]
"""


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("s")
    (folder / "touchy_model.py").write_text(MODEL)
    manifest = write_manifest(folder, {"touchy": {"path": "touchy_model:touchy", "batch_rows": CHUNK_ROWS}})
    with serving(folder, manifest) as system:
        yield system


@pytest.fixture(scope="module")
def client(system: System) -> Iterator[Client]:
    with Client(system.url) as client:
        yield client


@pytest.fixture(scope="module")
def clock_ahead_seconds() -> float:
    """Of the wall clock, before the job: somebody may set it meanwhile."""
    return time.time() - time.monotonic()


@pytest.fixture(scope="module")
def hurt_job(client: Client, clock_ahead_seconds: float) -> Job:
    """A job in which one row is bad and one child dies."""
    rows = np.zeros((CHUNKS * CHUNK_ROWS, 4), np.float32)
    rows[50, 0], rows[200, 0] = RAISES, DIES_ONCE
    job = client.submit("touchy", rows, chunk_rows=CHUNK_ROWS, on_error="skip")
    assert len(job.result()) == len(rows) - 1
    job.wait()
    return job


def page_of(system: System, job_id: str, folder: Path) -> str:
    """The page that the command writes, run in this process."""
    path = folder / "report.html"
    report.main([job_id, "-o", str(path), "--force", "--broker", system.url], standalone_mode=False)
    return path.read_text()


def test_the_page_of_a_job_in_a_browser(celeriac: Celeriac, system: System, hurt_job: Job, tmp_path: Path) -> None:
    browser.check_there_is_one()
    ended = celeriac.succeeds("report", hurt_job.id[:6], "-o", "report.html", "--broker", system.url)
    page = celeriac.folder / "report.html"
    assert ended.stdout == f"report of job {hurt_job.id} written to {page}\n"

    points = "document.querySelectorAll('#chart-lanes .barlayer .trace')[2].querySelectorAll('.point').length"
    texts = "[...document.querySelectorAll('body *')].filter(one => one.innerText || one.tagName === 'text')"
    seen = browser.look_at(
        page,
        tmp_path / "page.png",
        ready="document.body.dataset.drawn === 'yes'",
        ask={
            "width": "document.documentElement.scrollWidth",
            "titles": "[...document.querySelectorAll('h2')].map(one => one.innerText)",
            "lanes": "document.querySelectorAll('#chart-lanes .yaxislayer-above .ytick').length",
            "kinds": "[...document.querySelectorAll('#chart-lanes .legendtext')].map(one => one.textContent)",
            "computed": points,
            "stages": "document.querySelectorAll('#chart-stages .barlayer .point').length",
            "lines": "document.querySelectorAll('#throughput .scatterlayer .js-line').length",
            "marks": "document.querySelectorAll('#chart-lanes .scatterlayer .point').length",
            "smallest": f"Math.min(...{texts}.map(one => parseFloat(getComputedStyle(one).fontSize)))",
            "alien": "document.querySelectorAll('section script, section img').length",
        },
    )

    assert (seen.console, seen.requests) == ([], [])
    assert seen.values["width"] <= seen.width == 1280
    assert seen.values["titles"] == SECTIONS
    assert seen.values["smallest"] >= 10
    assert seen.colours > 50, "the picture is empty"
    assert seen.values["alien"] == 0

    with system.admin() as server:
        found = timeline_store.read(server, hurt_job.id)
    assert found
    story, entries = found
    ran = [entry for entry in entries if entry.begun_at]
    assert {entry.index for entry in ran} == set(range(CHUNKS))
    assert seen.values["computed"] == len(ran)
    assert seen.values["lanes"] == len({entry.slot for entry in ran}) + 1, "the slots, and the job itself"
    assert seen.values["marks"] == len(story.events)
    assert {"waiting", "computing", "sent again"} | {event.kind for event in story.events} <= set(seen.values["kinds"])
    assert seen.values["stages"] == len(hurt_job.stages)
    assert seen.values["lines"] == 3
    for text in (
        f"{CHUNKS * CHUNK_ROWS - 1} of {CHUNKS * CHUNK_ROWS} rows predicted",
        "1 failed; 2 slots busy",
        "It adds up: 320 rows = 319 predicted + 1 failed + 0 skipped.",
        "<script>alert('a bad row')</script>",
        "SIGKILL",
        hurt_job.digests["touchy"],
        "tensorflow 2.",
        "redis server",
    ):
        assert text in seen.text


def test_times_of_a_real_job_fit_together(system: System, hurt_job: Job, clock_ahead_seconds: float) -> None:
    was_set_by_seconds = abs(time.time() - time.monotonic() - clock_ahead_seconds)
    with system.admin() as server:
        found = timeline_store.read(server, hurt_job.id)
        with server.pipeline() as pipe:
            kept_seconds = pipe.ttl(keys.timeline(hurt_job.id)).ttl(keys.job(hurt_job.id)).execute()
    assert found
    story, entries = found
    assert abs(kept_seconds[0] - kept_seconds[1]) <= 2
    joined = [entry for entry in entries if entry.outcome == "joined"]
    assert len(joined) == hurt_job.ledger.chunks_answered == CHUNKS
    for entry in joined:
        assert story.began_at <= entry.sent_at <= entry.begun_at + was_set_by_seconds
        assert entry.begun_at + entry.seconds <= entry.answered_at + 0.01 + was_set_by_seconds
        assert entry.seconds >= entry.stages["infer"] > 0
    assert sum(story.bins) == hurt_job.ledger.rows
    # The worker's word for the child that died: on a busy machine the second copy may be answered before it.
    assert len(spoken_for := [entry.outcome for entry in entries if not entry.begun_at]) == 1
    assert spoken_for[0] in ("again", "duplicate")


def test_a_job_that_runs_has_a_page_too(
    system: System, client: Client, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with system.standing_still(), system.admin() as server:
        job = client.submit("touchy", np.zeros((20, 4), np.float32), chunk_rows=CHUNK_ROWS)
        wait_until(lambda: server.exists(keys.timeline(job.id)), "the job has told how far it is")
        page = page_of(system, job.id, tmp_path)
    job.cancel()
    job.wait()
    assert capsys.readouterr().out.endswith("; it still runs, so this is how far it is\n")
    assert "still running: 0 of 20 rows predicted" in page


def test_a_detached_job_is_told_by_its_answers(system: System, client: Client, tmp_path: Path) -> None:
    job_id = client.submit("touchy", np.zeros((40, 4), np.float32), chunk_rows=CHUNK_ROWS, detach=True)
    left = client.attach(job_id)
    assert left.wait(60)
    page = page_of(system, job_id, tmp_path)
    assert "This job was detached: the times are those that its answers tell" in page
    assert "40 rows in " in page
    assert "most of it infer" in page
    left.cancel()
    assert "no answer of it is in Redis" in page_of(system, job_id, tmp_path)


def test_a_job_without_a_timeline(system: System, tmp_path: Path) -> None:
    record = job_store.new_record("feedfeedfeed", [ModelRef("old", "ab" * 32)], "old.npy", "redis", 5)
    with system.admin() as server:
        job_store.create(server, record, SEALER, 60)
        job_store.finish(server, record, SEALER, JobState.DONE, 60)
        server.hset(keys.timeline(record.id), "story", b"of another version")
    assert "No timeline of this job was kept" in page_of(system, record.id, tmp_path)


def test_a_job_that_is_not_there(celeriac: Celeriac, system: System) -> None:
    told = celeriac.refuses(ExitCode.USAGE, "report", "ffff", "-o", "a.html", "--broker", system.url)
    assert "no job of this name, and none with an id that begins with 'ffff'" in told
    record = job_store.new_record("abcdefabcdef", [ModelRef("old", "ab" * 32)], "old.npy", "redis", 5)
    with system.admin() as server:
        job_store.create(server, record, SEALER, 60)
        server.delete(keys.job(record.id))
    with pytest.raises(UnknownJobError, match="has expired"):
        page_of(system, record.id, celeriac.folder)


def test_outputs_that_cannot_be_written(
    system: System, hurt_job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(name: str, *words: str) -> str:
        arguments = [hurt_job.id, "-o", str(tmp_path / name), "--broker", system.url, *words]
        with pytest.raises(UsageError) as caught:
            report.main(arguments, standalone_mode=False)
        return str(caught.value)

    (tmp_path / "there.html").write_text("mine")
    (tmp_path / "folder.html").mkdir()
    assert "there is no folder" in refused("nowhere/a.html")
    assert "use .html or .htm" in refused("a.pdf")
    assert "exists; use --force to replace it" in refused("there.html")
    assert "is a folder; name a file in it" in refused("folder.html", "--force")
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "plotly.offline", None)
        assert "pip install 'celeriac[report]'" in refused("a.html")
    with monkeypatch.context() as full:
        full.setattr(Path, "write_bytes", _no_space)
        assert "cannot be written: No space left on device" in refused("there.html", "--force")
    assert (tmp_path / "there.html").read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == {"there.html", "folder.html"}


def _no_space(path: Path, *_: object, **__: object) -> None:
    path.touch()
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
