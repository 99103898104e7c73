"""What is well and what is not, by a worker's status alone; and how a status is found."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from tasks.health import Limits, describe, judge, main
from tasks.telemetry import status_file
from tasks.telemetry.counters import Counters, Counts, WorkerTotals
from tasks.telemetry.status_file import ChildStatus, WorkerStatus
from tasks.transport import run_folder

NOW = 10_000.0
READY = [ChildStatus(slot, 70 + slot, True, 9_000.0) for slot in range(4)]
WELL = WorkerStatus("celery@here", 7, 0, "", "serving", 9_000.0, NOW - 1, 600.0, READY, chunks=40)


def children(**changes: Any) -> list[ChildStatus]:
    return [*READY[:-1], replace(READY[-1], **changes)]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"state": "starting", "since": NOW - 500, "children": [], "written_at": NOW - 500},
        {"state": "starting", "since": NOW - 900, "doing": "making a snapshot of digits", "doing_since": NOW - 500},
        {"children": children(ready=False, since=NOW - 100)},
        {"children": children(chunk="chunk 1/2", chunk_since=NOW - 650)},
        {"children": children(leaving=True, ready=False, since=NOW - 900)},
        {"waiting": 5, "waiting_since": NOW - 500, "finished_at": NOW - 30},
        {"waiting": 5, "waiting_since": NOW - 30},
        {"waiting": 5, "waiting_since": NOW - 500, "since": NOW - 30},
        {"waiting": 5, "waiting_since": NOW - 500, "children": children(chunk="chunk 1/2", chunk_since=NOW - 500)},
        {"waiting": 5, "waiting_since": NOW - 500, "state": "draining"},
        {"waiting": 5, "waiting_since": NOW - 500, "redis_lost_at": NOW - 500},
        {"children": children(ready=False, since=NOW - 900), "redis_lost_at": NOW - 900},
    ],
)
def test_these_are_well(changes: dict[str, Any]) -> None:
    assert judge(replace(WELL, **changes), NOW, Limits()) == ""


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"state": "starting", "since": NOW - 601}, "starts for 601 s, its children are not ready yet"),
        (
            {"state": "starting", "since": NOW - 900, "doing": "making a snapshot of digits", "doing_since": NOW - 601},
            "starts for 900 s, making a snapshot of digits, for 601 s, its children are not ready yet",
        ),
        ({"written_at": NOW - 31}, "the main process (pid 7) has not answered for 31 s"),
        ({"children": children(ready=False, since=NOW - 121)}, "not ready: child 3 (pid 73) for 121 s"),
        ({"children": children(pid=0, ready=False, since=NOW - 121)}, "not ready: child 3 for 121 s"),
        (
            {"children": children(chunk="chunk 1/2", chunk_since=NOW - 661)},
            "child 3 (pid 73) runs chunk 1/2 for 661 s, 600 are allowed",
        ),
        ({"waiting": 5, "waiting_since": NOW - 61}, "5 chunks wait, and none was answered for 61 s"),
        (
            # Chunks that are begun again and again, say, since each one kills its child.
            {"waiting": 5, "waiting_since": NOW - 661, "children": children(chunk="chunk 1/2", chunk_since=NOW - 1)},
            "5 chunks wait, and none was answered for 661 s",
        ),
    ],
)
def test_these_are_not_and_it_says_why(changes: dict[str, Any], why: str) -> None:
    assert judge(replace(WELL, **changes), NOW, Limits()) == why


def test_a_share_of_the_children_may_do() -> None:
    worker = replace(WELL, children=children(ready=False, since=NOW - 500))
    assert judge(worker, NOW, Limits(ready_share=0.75)) == ""
    assert judge(worker, NOW, Limits(ready_share=0.8)) != ""


def test_it_says_how_things_are() -> None:
    worker = replace(WELL, waiting=3, waiting_since=NOW, children=children(ready=False), redis_lost_at=NOW)
    assert describe(worker, NOW) == "3 of 4 children are ready, 40 chunks done, 3 wait, Redis is out of reach"
    worker = replace(WELL, state="starting", since=NOW - 90, doing="making a snapshot of digits", doing_since=NOW - 40)
    assert describe(worker, NOW) == "starts for 90 s, making a snapshot of digits, for 40 s"


def test_a_status_is_found_while_its_process_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    url = "redis://:secret@here:6379/0"
    told = status_file.starting("celery@here", url, 600.0)
    status_file.write(run_folder.make(), told)
    # Of one that has ended, though its pid is taken again.
    status_file.write(run_folder.make(), replace(told, node="celery@gone", born=told.born - 1))
    (run_folder.make() / "status").write_text("of another version")

    assert status_file.read_all() == [told]
    assert main(["--broker", url]) == 0
    assert re.fullmatch(r"celery@here: starts for \d+ s\n", capsys.readouterr().out)
    assert main(["--broker", url, "--start-seconds", "0"]) == 1
    assert main(["--broker", "redis://there"]) == 1
    assert main(["--broker", "amqp://there"]) == 2
    assert "secret" not in "".join(path.read_text() for path in tmp_path.glob("*/status"))


def test_the_sums_of_all_slots_are_those_of_children_that_are_gone_too() -> None:
    counters = Counters()
    assert counters.totals() == WorkerTotals()
    for slot in (0, 1, 0):
        counters.begin(slot)
        counters.answered(slot, Counts(1, 10, 2, 1, 3, 10, 12))
    assert (counters.totals().counts, counters.totals().children) == (Counts(3, 30, 6, 3, 9, 30, 36), 3)


def test_children_are_counted_each_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    counters, pid = Counters(), os.getpid()
    assert counters.of(1, pid) == (0, 0, 0)
    counters.begin(1)
    counters.answered(1, Counts(chunks=1, rows=10))
    counters.answered(1, Counts(chunks=1, rows=5))
    assert counters.of(1, pid) == (2, 0, 15)
    monkeypatch.setattr(os, "getpid", lambda: pid + 1)  # another child in its place
    counters.begin(1)
    counters.answered(1, Counts(chunks=1, rows=3))
    assert counters.of(1, pid + 1) == (1, 0, 3)
    assert counters.of(1, pid) == (0, 0, 0)
    assert counters.of(0, pid) == (0, 0, 0)
    counters.begin(10**6)  # more than are counted
    counters.answered(10**6, Counts(chunks=1, rows=1))
    assert counters.of(10**6, pid) == (0, 0, 0)


def test_folders_of_killed_workers_are_removed_by_the_next_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code = """if True:
        import os, signal
        from tasks.transport import run_folder
        for prefix in "celeriac-worker-", "celeriac-":  # the second as the embedded system's
            print(run_folder.make(prefix), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)"""
    killed = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(tmp_path)}, capture_output=True, text=True
    )
    assert all(Path(folder, "owner").exists() for folder in killed.stdout.split()), killed.stderr
    assert len(killed.stdout.split()) == 2
    long_ago = time.time() - run_folder.ABANDONED_SECONDS - 1
    folders = {}
    for name, changes, at in [
        ("alive", {}, long_ago),
        ("pid taken again", {"born": 1}, time.time()),
        ("of another container", {"pid": -1, "namespace": "there"}, time.time()),
        ("of another container, silent", {"pid": -1, "namespace": "there"}, long_ago),
        ("of an unknown process", {"pid": -1, "namespace": ""}, time.time()),
    ]:
        folder = folders[name] = run_folder.make()
        owner = msgspec.json.decode((folder / "owner").read_bytes(), type=run_folder.Owner)
        status_file.write(folder, status_file.starting(name, "redis://h", 600.0))
        os.utime(folder / "status", (at, at))
        (folder / "slot-0").write_text("{}")
        (folder / "owner").write_bytes(msgspec.json.encode(replace(owner, **changes)))
    (tmp_path / "celeriac-of-somebody").mkdir()

    run_folder.make()

    assert not any(Path(folder).exists() for folder in killed.stdout.split())
    left = {name for name, folder in folders.items() if folder.exists()}
    assert left == {"alive", "of another container", "of an unknown process"}
    assert (tmp_path / "celeriac-of-somebody").exists()
