"""What a dry run tells: the form of rows, the forecast, and the same for people and as values."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from producer.cli.dry_run import lines, values
from producer.preflight.dry_write import DryWrite, rehearse
from producer.preflight.preflight import Preflight, forecast_seconds, in_flight, specs_of
from producer.preflight.probe import Head
from producer.rows.part import Part
from producer.rows.readers import BatchReader
from producer.scheduling.chunk_sizer import ChunkSizer
from producer.scheduling.payload_route import choose_store, why
from producer.scheduling.window import MAX_BYTES, Window
from producer.sources import from_arrays, from_batches, open_source
from tasks.datasets.marked import unfed_of
from tasks.datasets.rows import Batches, Marked
from tasks.protocol.messages import MESSAGE_VERSION, FailureRecord
from tasks.protocol.records import ModelInfo, SlotRecord, TensorSpec
from tests.waiting import wait_until
from worker_config.errors import InputError, OutputError, UsageError
from worker_config.settings import Settings

MODEL = ModelInfo("m", "d" * 64, 4, [TensorSpec("x", "float32", (None, 2))], [], 0.0, 0)
FOUND = Preflight(
    label="rows.npy",
    rows=1_000,
    row_bytes=8.0,
    inputs=[TensorSpec("", "float32", (None, 2))],
    models={"m": "d" * 64},
    slots=2,
    workers=1,
    store="redis",
    reason="as was asked for",
    reply="redis",
    chunk_rows=64,
    chunks=16,
    probe=Part(0, 0, 4, np.zeros((4, 3))),
    probe_seconds=0.5,
    failed_models={},
    outputs=[TensorSpec("", "float64", (None, 3))],
    output_row_bytes=24.0,
    seconds=62.5,
    in_flight_bytes=2**20,
)


def test_columns_are_told_by_name_dtype_and_shape() -> None:
    rows = {"a": np.zeros((3, 4), np.int8), "b": [np.zeros((2, 5)), np.zeros((7, 5))], "c": np.array(["x"] * 3, object)}
    assert [str(spec) for spec in specs_of(rows)] == ["a (?, 4) int8", "b (?, ?, 5) float64", "c (?) string"]
    assert [str(spec).strip() for spec in specs_of(np.zeros((3, 4)))] == ["(?, 4) float64"]


def test_time_is_that_of_the_batch_shared_out() -> None:
    assert forecast_seconds(1_000, 10, 0.5, 2) == 25
    assert forecast_seconds(0, 0, 0.0, 2) == 0
    assert forecast_seconds(None, 10, 0.5, 2) is None


@pytest.mark.parametrize(("rows", "room", "expected"), [(None, 1e12, 80), (3, 1e12, 30), (None, 50, 50), (None, 0, 10)])
def test_what_is_in_flight_is_bounded_by_window_rows_and_room(rows: int | None, room: float, expected: int) -> None:
    sizer = ChunkSizer(1, 10.0)
    window = Window(2)
    window.leave_room(room)
    assert in_flight(sizer, window, 1, rows) == expected
    assert in_flight(ChunkSizer(1, MAX_BYTES / 3), Window(9), 1, None) == MAX_BYTES


def test_the_first_batch_of_what_is_read_in_order_is_all_that_is_read() -> None:
    read = []

    def batches():  # type: ignore[no-untyped-def]
        for number in range(100):
            read.append(number)
            yield np.full((3, 2), number, np.float32)

    head = Head(from_batches(batches()), [MODEL], 4)
    feed = head.feed(with_rows=True)
    while (given := feed.next_chunk(4)) is None:
        pass
    chunk, rows = given
    assert (chunk.start, chunk.stop) == (0, 4)
    assert isinstance(rows, np.ndarray)
    assert rows[:, 0].tolist() == [0, 0, 0, 1]
    assert read == [0, 1]
    feed.close()


def test_rows_that_may_fail_are_among_those_that_are_tried_out() -> None:
    def read_marked() -> Batches:
        yield Marked({"x": np.zeros((3, 2), np.float32)}, {1: "row 1 is null"})

    source = BatchReader("x", 3, read_marked)
    chunks: list[Any] = []

    def cut(feed: Any) -> bool:
        chunks.append(feed.next_chunk(4))
        return chunks[-1] is not None or feed.exhausted()

    wait_until(partial(cut, Head(source, [MODEL], 4).feed(with_rows=True, goes_on=True)), "all rows are cut")
    assert chunks[-1][0].rows == 3
    assert unfed_of(chunks[-1][1]) == {1: "row 1 is null"}
    feed = Head(source, [MODEL], 4).feed(with_rows=True)
    with pytest.raises(InputError, match="row 1 is null, or let such rows fail"):
        wait_until(lambda: feed.next_chunk(4) is None and feed.exhausted(), "it is refused")


def test_rows_that_do_not_fit_are_refused_before_anything_is_sent() -> None:
    with pytest.raises(InputError, match="input x"):
        Head(from_arrays(np.zeros((9, 3), np.float32)), [MODEL], 4).feed(with_rows=True)


def test_the_store_is_explained(tmp_path: Path) -> None:
    slots = [SlotRecord("w", 0, 1, 0.0, "q", [MODEL], message_version=MESSAGE_VERSION)]
    assert "no .npy file" in why(from_arrays(np.zeros((9, 2))), slots, Settings(), None)
    assert why(from_arrays(np.zeros((9, 2))), slots, Settings(), "redis") == "as was asked for"
    (tmp_path / "mark").touch()
    shared = [SlotRecord("w", 0, 1, 0.0, "q", [MODEL], spool_mark="mark", message_version=MESSAGE_VERSION)]
    assert "all share" in why(from_arrays(np.zeros((9, 2))), shared, Settings(spool=tmp_path), None)


@pytest.mark.parametrize(
    ("array", "told"),
    [
        (np.asfortranarray(np.zeros((9, 2))), "Fortran order, so no row is in one piece"),
        (np.zeros((9, 2), ">f4"), "big-endian numbers"),
        (np.array(["a", "b"]), "values of dtype <U1"),
        (np.ones(9, bool), "booleans, which are looked at"),
    ],
)
def test_a_file_that_cannot_be_read_in_slices_is_told_by_its_layout(tmp_path: Path, array: Any, told: str) -> None:
    np.save(tmp_path / "x.npy", array)
    source = open_source(tmp_path / "x.npy")
    slots = [SlotRecord("w", 0, 1, 0.0, "q", [MODEL], data_roots=(str(tmp_path),), message_version=MESSAGE_VERSION)]
    assert told in why(source, slots, Settings(), None)
    with pytest.raises(UsageError, match=f"x.npy: workers cannot read slices of it: its file has .*{told}"):
        choose_store(source, slots, Settings(), "slices")


def test_people_and_programs_are_told_the_same() -> None:
    out = Path("/o/out.npy")
    shown = lines(FOUND, out, DryWrite(24_000, 2**30)).splitlines()
    assert shown[0] == "input    rows.npy: 1,000 rows, (?, 2) float32, 8 bytes each"
    assert shown[2] == "batch    4 rows in 0.500 s: (?, 3) float64"
    assert shown[5] == "time     about 62.5 s"
    assert shown[6] == "memory   about 1.0 MiB at a time in Redis"
    assert shown[7] == "output   /o/out.npy: about 0.0 MiB, 1.0 GiB free there"
    told = json.loads(json.dumps(values(FOUND, out, DryWrite(24_000, 2**30))))
    assert (told["seconds"], told["output_bytes"], told["detached"]) == (62.5, 24_000, None)
    assert "too little" in lines(FOUND, out, DryWrite(2**31, 2**30))


def test_what_is_not_known_is_said() -> None:
    found = replace(FOUND, rows=None, chunks=None, seconds=None, spool_free=0)
    shown = lines(found, Path("out.jsonl"), DryWrite(None, 2**30))
    for word in ("rows not counted", "not known, nor are the rows", "size not known", "Redis takes what does not fit"):
        assert word in shown
    left = replace(FOUND, detached_bytes=2.0**20, detached_limit=2.0**21)
    assert "1.0 MiB in Redis, of 2.0 MiB" in lines(left, None, None)
    assert values(left, None, None)["detached"] == {"bytes": 2**20, "limit_bytes": 2**21, "fits": True}
    assert values(replace(left, detached_bytes=None), None, None)["detached"]["fits"] is None


def test_rows_of_the_batch_that_are_not_finite_are_told() -> None:
    odd = replace(FOUND, probe=replace(FOUND.probe, nonfinite=(1, 2)))
    assert "batch    4 rows in 0.500 s, 2 with a NaN or an infinity: (?, 3) float64" in lines(odd, None, None)
    told = values(odd, None, None)["batch"]
    assert (told["nonfinite_inputs"], told["nonfinite_outputs"]) == (1, 2)


@pytest.mark.parametrize("name", ["o.npy", "o.npz", "o.parquet", "o.zarr", "o.jsonl", "o.csv"])
def test_an_output_is_rehearsed_and_nothing_is_left(tmp_path: Path, name: str) -> None:
    found = rehearse(tmp_path / name, FOUND.probe, 1_000, {})
    assert found.free > 0
    assert found.bytes is not None
    assert found.bytes == 24_000 or name in ("o.jsonl", "o.csv")
    assert rehearse(tmp_path / name, FOUND.probe, None, {}).bytes is None
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_cannot_be_is_refused_by_its_own_name(tmp_path: Path) -> None:
    two = replace(FOUND.probe, outputs={"a": np.zeros((4, 1)), "b": np.zeros((4, 1))})
    with pytest.raises(OutputError, match=f"^{tmp_path}/o.npy: one .npy file holds one array"):
        rehearse(tmp_path / "o.npy", two, 1_000, {})
    with pytest.raises(OutputError, match="the disk has"):
        rehearse(tmp_path / "o.npy", FOUND.probe, 2**50, {})
    failed = {"b": FailureRecord(0, 4, "infer", "ValueError", "bad", "b")}
    part = replace(FOUND.probe, outputs={"a": np.zeros((4, 1))})
    assert rehearse(tmp_path / "o.npz", part, 1_000, failed).bytes == 8_000
    assert list(tmp_path.iterdir()) == []
