"""Outputs that workers write, as folders of files: the same as one file, whatever fails, is dropped or is continued."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from producer import Client
from producer.outputs.summary import PredictionFailedError
from producer.rows.part import Part
from producer.sinks import Sink
from tasks.outputs.failed_mask import Fill
from tasks.protocol.messages import OnError
from tests.file_limits import limit_files
from tests.output_sets import assert_nothing_beside, assert_same, begin_writing, names_in, read_folder
from tests.split_writes import CHUNK_ROWS, ROWS, predict, rows_with, stepped, stops, write_part, writing
from tests.systems import System
from tests.waiting import wait_until
from worker_config.errors import CeleriacError, OutputError, UsageError


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with writing(tmp_path_factory.mktemp("w"), stepped("all_kinds", "one", "bytes_of", "unwritable")) as system:
        yield system


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".zarr"])
@pytest.mark.parametrize("on_error", ["skip", "fill"])
def test_rows_that_fail_or_are_dropped_leave_what_they_leave_in_one_file(
    client: Client, out: Path, suffix: str, on_error: OnError
) -> None:
    raising = [0, 700, *range(768, 1024), 2_999]  # a chunk of which every row fails
    dropped = [1, 500, *range(1_280, 1_536)]  # and one that is dropped
    data = rows_with(raising, dropped)
    folder, file = out / f"set{suffix}", out / f"file{suffix}"
    summary = predict(client, "all_kinds", data, folder, on_error=on_error)
    as_file = predict(client, "all_kinds", data, file, on_error=on_error, in_parts=False)
    assert len(names_in(folder)) > 2 or suffix == ".zarr"
    assert_same(folder, file)
    assert summary.fill == as_file.fill
    for name in ("rows", "predicted", "failed", "skipped", "written"):
        assert summary.ledger[name] == as_file.ledger[name]
    assert summary.ledger["failed"] == len(raising)


@pytest.mark.parametrize(
    ("model", "suffix"), [("one", ".npy"), ("one", ".csv"), ("bytes_of", ".parquet"), ("one", ".feather")]
)
def test_each_format_and_kind_of_value_is_as_in_one_file(client: Client, out: Path, model: str, suffix: str) -> None:
    data = rows_with(dropped=range(100))
    folder, file = out / f"set{suffix}", out / f"file{suffix}"
    predict(client, model, data, folder)
    predict(client, model, data, file, in_parts=False)
    assert_same(folder, file)


@pytest.mark.parametrize(("part_bytes", "files"), [(1, -(-ROWS // CHUNK_ROWS)), (2**60, 1)])
@pytest.mark.parametrize("suffix", [".parquet", ".feather", ".csv", ".jsonl", ".npy"])
def test_files_may_be_as_small_as_a_chunk_or_as_large_as_all(
    client: Client, out: Path, suffix: str, part_bytes: int, files: int
) -> None:
    folder, file = out / f"set{suffix}", out / f"file{suffix}"
    predict(client, "one", rows_with(), folder, part_bytes=part_bytes)
    predict(client, "one", rows_with(), file, in_parts=False)
    assert len(names_in(folder)) == files
    assert_same(folder, file)


def test_marks_of_filled_rows_are_a_file_beside_arrays(
    client: Client, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = rows_with([0, 700, *range(768, 1_024), 2_999], [1, 500, *range(1_280, 1_536)])
    folder, file = out / "set.npy", out / "file.npy"
    with monkeypatch.context() as patch:
        patch.setattr(Sink, "write", stops)
        with pytest.raises(PredictionFailedError):
            predict(client, "one", data, folder, on_error="fill", sync_seconds=0.0, part_bytes=5_000)
    summary = predict(client, "one", data, folder, on_error="fill", resume=True, part_bytes=5_000)
    as_file = predict(client, "one", data, file, on_error="fill", in_parts=False)
    assert_same(folder, file)
    assert len(names_in(folder)) > 1
    assert (out / "set.npy.failed.npy").read_bytes() == (out / "file.npy.failed.npy").read_bytes()
    assert summary.fill == Fill("set.npy.failed.npy", as_file.fill.values if as_file.fill else {})
    # Of an output without them none are left.
    predict(client, "one", rows_with(), folder, force=True)
    assert not (out / "set.npy.failed.npy").exists()


@pytest.mark.parametrize("model", ["all_kinds", "one"])
def test_where_no_row_is_predicted_all_is_as_with_one_file(client: Client, out: Path, model: str) -> None:
    data = rows_with(dropped=range(ROWS))
    predict(client, model, data, out / "set.parquet")
    predict(client, model, data, out / "file.parquet", in_parts=False)
    assert read_folder(out / "set.parquet").num_rows == 0
    assert_same(out / "set.parquet", out / "file.parquet")
    data = rows_with(range(0, ROWS, 2), range(1, ROWS, 2))
    for in_parts in (True, False):
        with pytest.raises(PredictionFailedError, match="no row was predicted; row 0 failed at preprocess") as caught:
            predict(client, model, data, out / f"none{in_parts}.parquet", on_error="fill", in_parts=in_parts)
        assert caught.value.summary.failures == ROWS // 2
    assert not [path for path in out.iterdir() if "none" in path.name]


def test_no_rows_are_one_empty_file(client: Client, out: Path) -> None:
    data = rows_with(rows=0)
    predict(client, "one", data, out / "set.parquet")
    predict(client, "one", data, out / "file.parquet", in_parts=False)
    assert names_in(out / "set.parquet") == ["part-00000.parquet"]
    assert_same(out / "set.parquet", out / "file.parquet")


def test_a_run_that_was_stopped_is_continued(client: Client, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = rows_with()
    folder, file = out / "set.parquet", out / "file.parquet"
    predict(client, "all_kinds", data, file, in_parts=False)
    with monkeypatch.context() as patch:
        patch.setattr(Sink, "write", stops)
        with pytest.raises(PredictionFailedError, match=r"rows are safe beside .*; continue with --resume"):
            predict(client, "all_kinds", data, folder, sync_seconds=0.0)
    assert (out / ".set.parquet.part").is_dir()
    seen = read_folder(folder)["row"].to_pylist()
    assert seen == [*range(len(seen))], "what is there is the beginning of the output"
    with pytest.raises(OutputError, match="continue it with --resume, or begin again with --force"):
        predict(client, "all_kinds", data, folder)
    summary = predict(client, "all_kinds", data, folder, resume=True)
    assert summary.ledger["resumed"] > 1_000
    assert_same(folder, file)


def test_what_a_run_has_lost_is_told(client: Client, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = out / "set.parquet"
    with monkeypatch.context() as patch:
        patch.setattr(Sink, "write", stops)
        with pytest.raises(PredictionFailedError):
            predict(client, "one", rows_with(), folder, part_bytes=10**9)
    part = next((out / ".set.parquet.part").rglob("0-*.part"))
    os.truncate(part, 10)
    with pytest.raises(OutputError, match=rf"{part.name} is gone, or cut short; start over with --force"):
        predict(client, "one", rows_with(), folder, resume=True)


def test_an_output_is_replaced_only_at_the_end(client: Client, out: Path) -> None:
    folder, file = out / "set.parquet", out / "file.parquet"
    predict(client, "one", rows_with(), folder)
    old = read_folder(folder)
    with pytest.raises(OutputError, match="use --force to replace it"):
        predict(client, "one", rows_with(), folder)
    data = rows_with([2_900])
    with pytest.raises(PredictionFailedError, match="a bad row"):
        predict(client, "one", data, folder, force=True)
    assert read_folder(folder).equals(old)
    predict(client, "one", data, file, on_error="skip", in_parts=False)
    predict(client, "one", data, folder, on_error="skip", force=True)
    assert_same(folder, file)


def test_a_folder_with_other_files_is_left_alone(client: Client, out: Path) -> None:
    folder = out / "set.parquet"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match=r"has files that are not of such an output \(thesis.txt\)"):
        predict(client, "one", rows_with(), folder, force=True)
    assert (folder / "thesis.txt").read_text() == "years of work"


def test_outputs_that_the_format_cannot_hold_end_the_job(client: Client, out: Path) -> None:
    with pytest.raises(PredictionFailedError, match=r"the output is complex64, which Parquet cannot hold"):
        predict(client, "unwritable", rows_with(), out / "set.parquet")


def test_workers_write_nowhere_but_under_their_roots(client: Client, system: System, out: Path) -> None:
    outside = system.folder / "outside"
    outside.mkdir(exist_ok=True)
    (out / "link").symlink_to(outside)
    for folder in (outside, out / "link", out / ".." / ".." / "outside"):
        with pytest.raises(UsageError, match="may not write there: it is under no folder of their CELERIAC_OUTPUT"):
            predict(client, "one", rows_with(), folder / "set.parquet")
        # Where the producer does not look, the worker does.
        job = _unchecked(client, folder)
        with pytest.raises(OutputError, match=r"is not under a folder of CELERIAC_OUTPUT_ROOTS on this worker"):
            list(job.parts())
    assert list(outside.rglob("*.par*")) == []


def _unchecked(client: Client, folder: Path) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("producer.job.factory.check_writable", lambda *_: None)
        return begin_writing(client, "one", rows_with(), folder)


def test_a_folder_that_the_worker_does_not_see_is_told(client: Client, out: Path) -> None:
    job = begin_writing(client, "one", rows_with(), out / "gone")
    with pytest.raises(OutputError, match="is not on this worker: let it share the folder with the producer"):
        list(job.parts())


def test_a_job_that_ends_leaves_no_file_of_its_last_chunks(client: Client, out: Path) -> None:
    with pytest.raises(CeleriacError, match="a bad row"):
        predict(client, "one", rows_with([300]), out / "set.npy", sync_seconds=0.0)
    gone = partial(lambda: not [path for path in out.rglob("*") if path.name.startswith("set")])
    if (out / ".set.npy.part").exists():  # rows before the bad one are safe
        predict(client, "one", rows_with([300]), out / "set.npy", on_error="skip", force=True)
        assert_nothing_beside(out / "set.npy")
    else:
        wait_until(gone, "nothing is left")


@pytest.mark.parametrize("full", ["chunks", "files"])
def test_a_full_disk_ends_the_job_in_one_line_and_the_next_run_goes_on(
    client: Client, system: System, out: Path, full: str
) -> None:
    data = rows_with()
    folder, file = out / "set.parquet", out / "file.parquet"
    predict(client, "all_kinds", data, file, in_parts=False)
    # A part of a chunk has some 30 kB, a file of two thirds of them 200 kB.
    limit, part_bytes = (10_000, 40_000) if full == "chunks" else (100_000, 240_000)
    pids = [slot.pid for slot in system.slots()]
    try:
        for pid in pids:
            limit_files(pid, limit)
        told = r"set\.parquet.*: cannot be written: File too large; check the folder, the disk and its limits"
        with pytest.raises(PredictionFailedError, match=told) as raised:
            predict(client, "all_kinds", data, folder, part_bytes=part_bytes)
        assert "/proc/" not in str(raised.value)
    finally:
        for pid in pids:
            limit_files(pid, resource.RLIM_INFINITY)
    predict(client, "all_kinds", data, folder, resume=True)
    assert_same(folder, file)


def test_what_is_damaged_after_it_was_written_is_found(client: Client, out: Path) -> None:
    folder = out / "set.parquet"

    def damages(sink: Sink, part: Part) -> None:
        write_part(sink, part)
        if sink.folder and part.start == CHUNK_ROWS and part.stored and part.stored.ref:
            path = Path(sink.folder.folder) / part.stored.ref.name
            path.write_bytes(path.read_bytes()[:-1] + b"?")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sink, "write", damages)
        with pytest.raises(PredictionFailedError, match=r"\.part is not as it was written"):
            predict(client, "one", rows_with(), folder, part_bytes=10**9)
