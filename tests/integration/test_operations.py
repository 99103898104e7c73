"""What whoever runs workers leans on: logs of one JSON object a line, the queue's name, a job's time left."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest

from producer import Client, Progress
from producer.job.progress_bar import LOOK_SECONDS, follow
from tests.manifests import write_manifest
from tests.systems import REPOSITORY, System, serving
from tests.waiting import take, wait_until

FUNCTIONS = """
import logging, pathlib, signal, warnings

from tests.waiting import take

logger = logging.getLogger("mine")


def even(rows):
    take(0.004 * len(rows))
    return rows * 2


def lingers(rows):
    begun = pathlib.Path("begun")
    if not begun.exists():
        begun.touch()
        signal.pause()  # until it is killed
    return rows


def tells(rows):
    logger.warning("two\\nlines")
    print("said")
    warnings.warn("a warning")
    try:
        {}["missing"]
    except KeyError:
        logger.exception("went wrong")
    return rows
"""


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[System]:
    """One worker with one child, whose log is JSON."""
    folder = tmp_path_factory.mktemp("s")
    (folder / "operated.py").write_text(FUNCTIONS)
    entries = {name: {"path": f"operated:{name}", "batch_rows": 5} for name in ("even", "lingers", "tells")}
    manifest = write_manifest(folder, {**entries, "digits": models / "digits.keras"})
    with serving(folder, manifest, 1, {"CELERIAC_LOG_FORMAT": "json", "PYTHONPATH": str(REPOSITORY)}) as system:
        wait_until(lambda: " ready." in system.workers[0].output(), "the worker takes chunks")
        yield system


def celeriac(system: System, *words: str, **environ: str) -> str:
    done = system.celeriac(*words, **environ)
    assert done.returncode == 0, done.stderr
    return done.stdout


def records(system: System) -> list[dict[str, Any]]:
    """Every line of the worker's log; what is no JSON fails the test."""
    whole = system.workers[0].output().rpartition("\n")[0]
    return [json.loads(line) for line in whole.splitlines()]


def test_every_event_is_one_object_that_names_job_and_chunk(system: System, client: Client) -> None:
    job = client.submit("tells", np.zeros((4, 2)), chunk_rows=2)
    assert np.shape(job.result()) == (4, 2)

    def of_job() -> list[dict[str, Any]]:
        return [one for one in records(system) if one.get("job") == job.id]

    # A child's last line comes after its answer.
    told = wait_until(
        lambda: sum(" succeeded in " in one["message"] for one in of_job()) == 2 and of_job(), "both ended"
    )
    messages = [
        r"Task celeriac\.infer\[\S+\] received: chunk \d/2 rows \S+ of job \w+, tells@\w+",
        r"Task celeriac\.infer\[\S+\] succeeded in ",
        r"two\nlines$",
        "said$",
        "went wrong$",
    ]
    for chunk in (0, 1):
        of_chunk = [one for one in told if one["chunk"] == chunk]
        for pattern in messages:
            found = [one for one in of_chunk if re.match(pattern, one["message"])]
            assert len(found) == 1, (pattern, of_chunk)
            assert {"time", "level", "logger", "process"} <= set(found[0])
        (wrong,) = [one for one in of_chunk if "exception" in one]
        assert "KeyError: 'missing'" in wrong["exception"]
    # Python tells of each place once.
    assert any("UserWarning: a warning" in one["message"] for one in told)
    assert any(one["message"].startswith("1 child holds ") for one in records(system))


def test_a_child_that_dies_is_told_with_its_chunk(system: System, client: Client) -> None:
    job = client.submit("lingers", np.zeros((4, 2)), chunk_rows=2)
    wait_until((system.folder / "begun").exists, "a chunk runs")
    os.kill(system.slots()[0].pid, signal.SIGKILL)
    assert np.shape(job.result()) == (4, 2)

    def lost() -> list[dict[str, Any]]:
        return [one for one in records(system) if "WorkerLostError" in one["message"]]

    told = wait_until(lost, "the log tells of it")
    assert all(one["job"] == job.id and one["chunk"] in (0, 1) and "exception" not in one for one in told)
    assert any("SIGKILL" in one["message"] and one["logger"] == "multiprocessing" for one in records(system))


def test_the_list_that_an_autoscaler_watches_is_that_in_which_chunks_wait(system: System, client: Client) -> None:
    (of_worker,) = celeriac(system, "models", "--queue").splitlines()
    manifest = str(system.folder / "models.toml")
    (of_manifest,) = celeriac(system, "models", "--queue", "--models", manifest, CELERIAC_BROKER_URL="").splitlines()
    assert of_worker == of_manifest
    with system.standing_still(), system.admin() as redis:
        job = client.submit("even", np.zeros((8, 2)), chunk_rows=1)
        # A worker that stands still may have asked for one before.
        wait_until(lambda: int(redis.llen(of_worker)) >= 3, "chunks wait in it")
        job.cancel()
        job.wait()


def test_at_half_time_the_time_left_is_known_within_a_fifth(client: Client) -> None:
    ratios = []
    for _ in range(3):
        seen: list[tuple[float, Progress, float]] = []
        with _pace() as ticks:
            begun = time.monotonic()
            job = client.submit("even", np.zeros((600, 2)), chunk_rows=20)
            show = partial(_keep, seen)
            thread = threading.Thread(target=follow, args=(job.progress, show, threading.Event()), daemon=True)
            thread.start()
            job.result()
            thread.join()
            ended = time.monotonic()
        at, half, rate = next(one for one in seen if one[1].done >= 300)
        left = job.progress().seconds - half.seconds
        assert left > LOOK_SECONDS
        # Others use this machine too, and not evenly: nobody can foresee what the second half had to bear.
        uneven = _seconds_per_tick(ticks, at, ended) / _seconds_per_tick(ticks, begun, at)
        ratios.append((600 - half.done) / rate * uneven / left)
    print(ratios)
    assert 0.8 <= median(ratios) <= 1.2, ratios


@contextmanager
def _pace() -> Iterator[list[float]]:
    """When each of many short sleeps was over, as the model of the job takes them, by the monotonic clock."""
    ticks: list[float] = []
    over = threading.Event()

    def tick() -> None:
        while not over.is_set():
            take(0.02)
            ticks.append(time.monotonic())

    thread = threading.Thread(target=tick)
    thread.start()
    try:
        yield ticks
    finally:
        over.set()
        thread.join()


def _seconds_per_tick(ticks: list[float], begin: float, end: float) -> float:
    return (end - begin) / sum(begin <= one < end for one in ticks)


def _keep(seen: list[tuple[float, Progress, float]], progress: Progress, rows_per_second: float) -> None:
    seen.append((time.monotonic(), progress, rows_per_second))


def test_a_job_in_a_script_shows_itself_to_its_end(
    client: Client, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("producer.job.progress_bar.LINE_SECONDS", 0.0)
    job = client.submit("even", np.zeros((200, 2)), chunk_rows=20).show_progress()
    assert np.shape(job.result()) == (200, 2)
    wait_until(lambda: not [one for one in threading.enumerate() if one.name == "celeriac-progress"], "it has ended")
    lines = capfd.readouterr().err.splitlines()
    assert re.fullmatch(r"[\d,]+ of 200 rows, \d+ rows/s, (\d\d:\d\d left, )?slots \d/1, \d+ in flight", lines[0])
    assert lines[-1].startswith("200 of 200 rows, ")
