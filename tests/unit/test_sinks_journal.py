"""An output that a run left half done is continued, or refused with the reason; rows are never lost or doubled."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from producer.rows.part import Part
from producer.sinks import JournalHead, Sink, open_sink
from producer.sinks.journal import journal_path
from tests.file_limits import files_limited_to
from tests.sink_outputs import ROWS, TEXTS, assert_holds, names, parts_of
from worker_config.errors import CeleriacError, OutputError

HEAD = JournalHead({"path": "rows.npy", "size": 4711}, {"digits": "9f3c"})

OUTPUTS: dict[str, Any] = {
    "scores": np.linspace(0, 1, ROWS * 3, dtype=np.float32).reshape(ROWS, 3),
    "label": np.arange(ROWS, dtype=np.int64),
}


def outputs_for(path: Path) -> Any:
    return OUTPUTS["scores"] if path.suffix == ".npy" else OUTPUTS


def open_journalled(
    path: Path, rows: int | None = ROWS, *, head: JournalHead = HEAD, resume: bool = False, sync_seconds: float = 0.0
) -> Sink:
    return open_sink(path, rows, False, journal=head, resume=resume, sync_seconds=sync_seconds)


def write_rest(sink: Sink, outputs: Any, chunk_rows: int = 5) -> None:
    """Do what is not done yet, and commit."""
    with sink:
        if sink.done_rows < ROWS:
            for part in parts_of(outputs, chunk_rows, start=sink.done_rows):
                sink.write(part)
        sink.commit()


def half_done(path: Path, rows: int | None = ROWS, parts: int = 2) -> None:
    with open_journalled(path, rows) as sink:
        for part in parts_of(outputs_for(path))[:parts]:
            sink.write(part)


def content(path: Path) -> dict[str, bytes]:
    files = path.rglob("*") if path.is_dir() else [path]
    return {str(file.relative_to(path)): file.read_bytes() for file in files if file.is_file()}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=10)
@given(data=st.data(), rows=st.sampled_from([ROWS, None]), chunk_rows=st.integers(1, 9))
def test_a_run_cut_anywhere_continues_to_the_same_file(
    tmp_path_factory: pytest.TempPathFactory,
    suffix: str,
    data: st.DataObject,
    rows: int | None,
    chunk_rows: int,
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    whole, running, cut = (folder / name / f"out{suffix}" for name in ("whole", "running", "cut"))
    outputs = outputs_for(whole)
    whole.parent.mkdir()
    write_rest(open_journalled(whole, rows), outputs, chunk_rows)
    running.parent.mkdir()
    parts = parts_of(outputs, chunk_rows)
    with open_journalled(running, rows) as sink:
        for part in parts[: data.draw(st.integers(0, len(parts)), "parts written")]:
            sink.write(part)
        shutil.copytree(running.parent, cut.parent)  # what a process that is killed here leaves
    journal = journal_path(cut)
    os.truncate(journal, data.draw(st.integers(0, journal.stat().st_size), "bytes of the journal that were written"))

    sink = open_journalled(cut, rows, resume=True)
    assert sink.done_rows in {0, *(part.stop for part in parts)}
    write_rest(sink, outputs, chunk_rows)

    assert_holds(cut, outputs)
    assert content(cut) == content(whole)


@pytest.mark.parametrize(("disk_seconds", "safe"), [(0.0, [0, 2, 2, 4, 5]), (1.0, [0, 2, 2, 2, 2])])
def test_rows_are_brought_to_the_disk_earlier_where_that_is_cheap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk_seconds: float, safe: list[int]
) -> None:
    now = 0.0
    fsync = os.fsync

    def slow_fsync(file: int) -> None:
        nonlocal now
        now += disk_seconds
        fsync(file)

    monkeypatch.setattr("producer.sinks.sink.time", SimpleNamespace(monotonic=lambda: now))
    told = []
    with open_journalled(tmp_path / "out.npy", sync_seconds=1.0) as sink:
        monkeypatch.setattr(os, "fsync", slow_fsync)
        for part, pause in zip(parts_of(OUTPUTS["scores"], 1), (0.9, 0.15, 0.05, 0.1, 0.15), strict=False):
            now += pause
            sink.write(part)
            told.append(sink.safe_rows or 0)
    assert told == safe


def test_an_abort_keeps_every_row_that_was_written(path: Path) -> None:
    with open_journalled(path, sync_seconds=3600) as sink:
        for part in parts_of(outputs_for(path))[:3]:
            sink.write(part)

    assert journal_path(path).name in names(path.parent)
    sink = open_journalled(path, resume=True)
    assert sink.done_rows == 15
    write_rest(sink, outputs_for(path), chunk_rows=2)
    assert_holds(path, outputs_for(path))


def test_strings_continue_where_the_format_has_them(tmp_path: Path) -> None:
    for suffix in (".parquet", ".zarr", ".jsonl"):
        path = tmp_path / suffix.removeprefix(".") / f"out{suffix}"
        path.parent.mkdir()
        with open_journalled(path, None) as sink:
            sink.write(parts_of(TEXTS)[0])
        sink = open_journalled(path, None, resume=True)
        assert sink.done_rows == 5
        write_rest(sink, TEXTS)
        assert_holds(path, TEXTS)


def test_the_layout_of_the_first_run_holds_for_the_next_one(path: Path) -> None:
    half_done(path)

    with (
        pytest.raises(CeleriacError, match="earlier ones had"),
        open_journalled(path, resume=True) as sink,
    ):
        sink.write(Part(0, 10, 12, np.zeros((2, 7))))
    write_rest(open_journalled(path, resume=True), outputs_for(path))
    assert_holds(path, outputs_for(path))


def test_dtypes_that_are_not_of_numpy_are_known_again(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    halves = np.arange(ROWS).astype(ml_dtypes.bfloat16)
    with open_journalled(path) as sink:
        sink.write(parts_of(halves)[0])

    write_rest(open_journalled(path, resume=True), halves)

    assert_holds(path, halves)


def test_zero_rows_that_are_done_need_not_come_again(path: Path) -> None:
    with open_journalled(path, 0) as sink:
        sink.write(Part(0, 0, 0, np.empty((0, 3), np.float32)))

    with open_journalled(path, 0, resume=True) as sink:
        sink.commit()

    assert names(path.parent) == [path.name]


def test_what_is_safe_is_told_after_an_abort(path: Path) -> None:
    sink = open_journalled(path, sync_seconds=3600)
    assert (sink.safe_rows, sink.dropped_rows) == (None, 0)
    for part in parts_of(outputs_for(path))[:3]:
        sink.write(part)
    sink.abort()
    assert sink.safe_rows == 15

    sink = open_journalled(path, resume=True)
    assert (sink.done_rows, sink.safe_rows, sink.dropped_rows) == (15, 15, 0)
    sink.discard()
    assert sink.safe_rows is None


def test_outputs_in_another_order_go_to_their_own_place(path: Path) -> None:
    two = {name: np.linspace(start, 1, ROWS, dtype=np.float32) for start, name in enumerate(("b", "a"))}
    if path.suffix == ".npy":
        return  # holds one
    with open_journalled(path) as sink:
        sink.write(parts_of(two)[0])

    write_rest(open_journalled(path, resume=True), dict(reversed(two.items())))

    assert_holds(path, two)


def test_where_no_row_is_safe_other_work_begins_afresh(path: Path) -> None:
    half_done(path)
    head, _ = journal_path(path).read_bytes().split(b"\n", 1)
    journal_path(path).write_bytes(head + b"\n")

    sink = open_journalled(path, ROWS, head=JournalHead({"path": "other.npy"}), resume=True)

    assert (sink.done_rows, sink.dropped_rows) == (0, 0)
    write_rest(sink, outputs_for(path))
    assert_holds(path, outputs_for(path))


@pytest.mark.parametrize("force", [False, True])
def test_a_complete_output_is_not_continued(path: Path, force: bool) -> None:
    write_rest(open_journalled(path), outputs_for(path))

    if not force:
        with pytest.raises(OutputError, match="exists, complete; nothing is left to continue; use --force"):
            open_journalled(path, resume=True)
        with pytest.raises(OutputError, match="exists; use --force to replace it"):
            open_journalled(path)
    else:
        open_sink(path, ROWS, True, journal=HEAD, resume=True).abort()
    assert_holds(path, outputs_for(path))


def test_force_lets_a_run_that_replaces_an_output_be_continued(path: Path) -> None:
    write_rest(open_journalled(path), outputs_for(path))
    with open_sink(path, ROWS, True, journal=HEAD, sync_seconds=0) as sink:
        sink.write(parts_of(outputs_for(path))[0])

    with pytest.raises(OutputError, match="exists; use --force to replace it"):
        open_journalled(path, resume=True)
    sink = open_sink(path, ROWS, True, journal=HEAD, resume=True)

    assert sink.done_rows == 5
    write_rest(sink, outputs_for(path))
    assert_holds(path, outputs_for(path))


def test_resume_without_a_journal_begins_afresh(path: Path) -> None:
    sink = open_journalled(path, resume=True)

    assert sink.done_rows == 0
    write_rest(sink, outputs_for(path))
    assert_holds(path, outputs_for(path))


def test_rows_of_a_former_run_are_dropped_by_force_alone(path: Path) -> None:
    half_done(path)
    before = names(path.parent)

    with pytest.raises(OutputError, match=r"10 rows that an earlier run has saved .* with --resume, or .* --force"):
        open_journalled(path)
    assert names(path.parent) == before
    sink = open_sink(path, ROWS, True, journal=HEAD)

    assert (sink.done_rows, sink.dropped_rows) == (0, 10)
    write_rest(sink, outputs_for(path))
    assert_holds(path, outputs_for(path))


def test_nothing_is_kept_where_nothing_was_done(path: Path) -> None:
    open_journalled(path).abort()

    assert names(path.parent) == []


def test_discard_removes_what_could_be_continued(path: Path) -> None:
    half_done(path)

    sink = open_journalled(path, resume=True)
    sink.discard()
    sink.abort()

    assert names(path.parent) == []


@pytest.mark.parametrize(
    ("head", "rows", "message"),
    [
        (
            JournalHead(HEAD.source, {"digits": "0000"}),
            ROWS,
            r"models are not the same \(digits@9f3c before, digits@0000 now\)",
        ),
        (
            JournalHead(HEAD.source, {"digits": "9f3c", "letters": "77"}),
            ROWS,
            r"\(digits@9f3c before, digits@9f3c, letters@77 now\)",
        ),
        (JournalHead({**HEAD.source, "size": 1}, HEAD.models), ROWS, r"input has changed \(size: 4711 before, 1 now\)"),
        (JournalHead({"path": "rows.npy"}, HEAD.models), ROWS, r"input has changed \(size: 4711 before, unknown now"),
        (
            HEAD,
            ROWS + 1,
            rf"input has changed \(rows: {ROWS} before, {ROWS + 1} now\); start over with --force",
        ),
        (HEAD, None, rf"rows: {ROWS} before, unknown now"),
    ],
)
def test_another_piece_of_work_is_refused_and_the_old_one_kept(
    path: Path, head: JournalHead, rows: int | None, message: str
) -> None:
    half_done(path)
    before = names(path.parent)

    with pytest.raises(OutputError, match=message) as caught:
        open_journalled(path, rows, head=head, resume=True)

    assert str(caught.value).startswith(f"{path}: cannot be continued: ")
    assert names(path.parent) == before
    with open_journalled(path, resume=True) as sink:
        assert sink.done_rows == 10


def test_changes_that_are_accepted_are_noted_and_need_not_be_accepted_again(path: Path) -> None:
    half_done(path)
    changed = JournalHead({**HEAD.source, "size": 1}, {"digits": "77aa"})

    def opened(head: JournalHead, accept: bool) -> Sink:
        return open_sink(path, ROWS, False, journal=head, resume=True, accept_changes=accept, sync_seconds=0)

    with pytest.raises(OutputError, match=r"size: 4711 before, 1 now\), and its models .* go on with --accept-changes"):
        opened(changed, accept=False)
    with opened(changed, accept=True) as sink:
        assert (sink.done_rows, len(sink.accepted)) == (10, 2)
        sink.write(parts_of(outputs_for(path), start=10)[0])
    with pytest.raises(OutputError, match=r"size: 1 before, 4711 now"):
        opened(HEAD, accept=False)
    sink = opened(changed, accept=False)

    assert sink.done_rows == 15
    assert sink.accepted == [
        "its input has changed (size: 4711 before, 1 now); 10 rows are from before",
        "its models are not the same (digits@9f3c before, digits@77aa now); 10 rows are from before",
    ]
    write_rest(sink, outputs_for(path))
    assert_holds(path, outputs_for(path))


@pytest.mark.parametrize(
    ("head", "rows"),
    [
        (JournalHead(HEAD.source, {"digits": "9f3c", "letters": "77"}), ROWS),
        (JournalHead(HEAD.source, HEAD.models, keep=["id"]), ROWS),
        (HEAD, ROWS + 1),
    ],
)
def test_what_would_be_another_output_cannot_be_accepted(tmp_path: Path, head: JournalHead, rows: int) -> None:
    path = tmp_path / "out.npy"
    half_done(path)
    with pytest.raises(OutputError, match=r"cannot be continued: .*; start over with --force"):
        open_sink(path, rows, False, journal=head, resume=True, accept_changes=True)


@pytest.mark.parametrize("tail", [b"\x00" * 512, b"\n\n", b"00000000 {}\n", b'12345678 {"start": 10'])
def test_a_torn_tail_is_dropped(tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / "out.npy"
    half_done(path)
    with journal_path(path).open("ab") as journal:
        journal.write(tail)

    for _ in range(2):  # and what follows it can be read again
        sink = open_journalled(path, resume=True)
        sink.write(parts_of(outputs_for(path), start=sink.done_rows)[0])
        sink.abort()
    sink = open_journalled(path, resume=True)

    assert sink.done_rows == 20
    write_rest(sink, outputs_for(path))
    assert_holds(path, outputs_for(path))


@pytest.mark.parametrize("line", [0, 1])
def test_damage_in_the_middle_of_a_journal_is_an_error(tmp_path: Path, line: int) -> None:
    path = tmp_path / "out.npy"
    half_done(path)
    lines = journal_path(path).read_bytes().splitlines(keepends=True)
    lines[line] = lines[line].replace(b"a", b"b")
    journal_path(path).write_bytes(b"".join(lines))

    with pytest.raises(OutputError, match=rf"line {line + 1} of .*\.out\.npy\.journal is damaged; start over"):
        open_journalled(path, resume=True)


def test_a_lost_record_in_the_middle_of_a_journal_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "out.npy"
    half_done(path, parts=3)
    lines = journal_path(path).read_bytes().splitlines(keepends=True)
    journal_path(path).write_bytes(b"".join(lines[:2] + lines[3:]))

    with pytest.raises(OutputError, match=r"line 3 of .* is damaged"):
        open_journalled(path, resume=True)


def test_temporary_files_that_are_gone_or_too_short_are_an_error(path: Path) -> None:
    half_done(path)
    for file in path.parent.glob("*.part"):
        if file.is_dir():
            shutil.rmtree(file)
            file.mkdir()
        else:
            file.write_bytes(b"")
    with pytest.raises(OutputError, match=r"cannot be continued: .*; start over with --force instead of --resume"):
        open_journalled(path, resume=True)

    for file in path.parent.glob("*.part"):
        file.rmdir() if file.is_dir() else file.unlink()
    with pytest.raises(OutputError, match=r"cannot be continued: .* is gone; start over with --force"):
        open_journalled(path, resume=True)


def test_two_processes_never_write_one_output(path: Path) -> None:
    with open_journalled(path) as sink:
        sink.write(parts_of(outputs_for(path))[0])
        for resume in (False, True):
            with pytest.raises(OutputError, match="another process is writing it"):
                open_journalled(path, resume=resume)

    with open_journalled(path, resume=True) as sink:
        assert sink.done_rows == 5


def test_a_disk_that_fills_up_costs_only_the_rows_that_did_not_fit(path: Path) -> None:
    wide = np.random.default_rng(0).integers(-(2**62), 2**62, (ROWS, 512))
    full = rf"^{re.escape(str(path))}: cannot be written: File too large; check"
    # Rows of a Zarr chunk that does not fit are safe if they were brought to the disk before it had so many.
    sync_seconds = 0 if path.suffix == ".zarr" else 3600
    with files_limited_to(64 * 1024), pytest.raises(OutputError, match=full):
        write_rest(open_journalled(path, None, sync_seconds=sync_seconds), wide, chunk_rows=2)

    sink = open_journalled(path, None, resume=True)

    assert 0 < sink.done_rows < ROWS
    write_rest(sink, wide)
    assert_holds(path, wide)


def test_a_disk_that_fills_up_without_a_journal_leaves_nothing(path: Path) -> None:
    wide = np.random.default_rng(0).integers(-(2**62), 2**62, (ROWS, 512))

    with files_limited_to(64 * 1024), pytest.raises(OutputError, match="cannot be written: File too large; check"):
        write_rest(open_sink(path, None, force=False), wide)

    assert names(path.parent) == []


def test_a_journal_that_cannot_be_written_leaves_nothing(path: Path) -> None:
    with files_limited_to(10), pytest.raises(OutputError, match="cannot be written: File too large"):
        open_journalled(path)

    assert names(path.parent) == []


def test_a_name_that_cannot_be_given_leaves_all_rows_to_the_next_run(path: Path) -> None:
    sink = open_journalled(path, sync_seconds=3600)
    for part in parts_of(outputs_for(path)):
        sink.write(part)
    path.mkdir()
    (path / "in the way").touch()

    with pytest.raises(OutputError, match=r"out\.\w+: (cannot be written|exists and is no Zarr store)"):
        sink.commit()

    shutil.rmtree(path)
    sink = open_journalled(path, resume=True)
    assert sink.done_rows == ROWS
    sink.commit()
    assert_holds(path, outputs_for(path))


def test_rows_whose_note_is_interrupted_are_safe_as_they_are_on_the_disk(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync, interrupts = os.fsync, []

    def interrupted(descriptor: int) -> None:
        sync(descriptor)
        if not interrupts and os.fstat(descriptor).st_ino == journal_path(path).stat().st_ino:
            interrupts.append(descriptor)
            raise KeyboardInterrupt

    first, *_ = parts_of(outputs_for(path))
    sink = open_journalled(path)
    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt), sink:
        sink.write(first)
    assert sink.safe_rows == first.stop

    sink = open_journalled(path, resume=True)
    assert sink.done_rows == first.stop
    write_rest(sink, outputs_for(path))
    assert_holds(path, outputs_for(path))


_KILLED = """
import os, signal, sys
from pathlib import Path
from tests.unit.test_sinks_journal import open_journalled, outputs_for, parts_of
path = Path(sys.argv[1])
sink = open_journalled(path)
for part in parts_of(outputs_for(path))[:3]:
    sink.write(part)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_process_that_is_killed_leaves_what_the_next_one_continues(path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", _KILLED, str(path)], check=False, cwd=Path(__file__).parents[2])
    assert killed.returncode == -signal.SIGKILL

    sink = open_journalled(path, resume=True)

    assert sink.done_rows == 15
    write_rest(sink, outputs_for(path))
    assert_holds(path, outputs_for(path))
