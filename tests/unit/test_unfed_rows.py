"""Rows that cannot be fed to a model: they keep their place on all the way, never run, and fail with their reason."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from producer.job.chunk_feeds import BatchFeed
from producer.rows.readers import BatchReader
from tasks.child.chunk_rows import fed_rows, with_values
from tasks.child.run_models import ChunkOutputs, ChunkRun
from tasks.datasets.marked import marked, plain, unfed_of
from tasks.datasets.rebatcher import Rebatcher, until_unfed
from tasks.datasets.rows import Marked, Rows
from tasks.protocol import codec
from tasks.protocol.messages import ChunkMessage, FailureRecord, InlineRef, ModelRef, OnError
from tasks.protocol.unfed_rows import with_unfed, without_unfed
from tasks.recovery.poison_rows import RowRange
from tasks.telemetry.stopwatch import Stopwatch
from tests.unit.test_nonfinite import FIRST, model
from tests.waiting import wait_until
from worker_config.errors import InputError, PayloadError


def batch(start: int, stop: int, *unfed: int) -> Rows:
    return marked({"x": np.arange(start, stop)}, {row - start: f"row {row} is null" for row in unfed})


def test_marks_keep_to_their_rows_however_these_are_cut_and_joined() -> None:
    for size in range(1, 9):
        rebatcher = Rebatcher()
        for one in (batch(0, 3, 1, 2), batch(3, 5), batch(5, 8, 5)):
            rebatcher.add(one)
        seen, found = [], {}
        while rebatcher.rows:
            rows, count = rebatcher.take(size)
            found |= {len(seen) + at: why for at, why in unfed_of(rows).items()}
            seen += plain(rows)["x"].tolist()  # type: ignore[index, union-attr]
            assert count <= size
        assert seen == list(range(8))
        assert found == {row: f"row {row} is null" for row in (1, 2, 5)}


def test_where_rows_may_not_fail_those_before_come_first() -> None:
    reading = until_unfed(one for one in (batch(0, 3), batch(3, 6, 4)))
    came: list[Any] = [next(reading), next(reading)]
    with pytest.raises(InputError, match="row 4 is null, or let such rows fail"):
        next(reading)
    assert [one["x"].tolist() for one in came] == [[0, 1, 2], [3]]


@pytest.mark.parametrize("compression", [None, "lz4"])
def test_marks_travel_with_the_rows(compression: Any) -> None:
    for rows in (np.arange(3), {"x": np.arange(3)}, (np.arange(3), np.ones(3)), [np.ones(1), np.ones(2)]):
        payload = codec.decode(codec.encode(with_unfed(rows, {1: "null"}), compression=compression))
        again, unfed = without_unfed(payload)
        np.testing.assert_equal(again, rows)
        assert unfed == {1: "null"}
        np.testing.assert_equal(without_unfed(codec.decode(codec.encode(with_unfed(rows, {})))), (rows, {}))
    with pytest.raises(PayloadError, match="does not say which"):
        without_unfed({0: np.arange(3), 1: {1: b"null"}})


def message(rows: int, on_error: OnError = "fill") -> ChunkMessage:
    refs = [ModelRef("m", "d")]
    return ChunkMessage(2, "0" * 12, 0, FIRST, FIRST + rows, 1, refs, InlineRef(b""), on_error=on_error)


def run(x: Any, unfed: dict[int, str], on_error: OnError = "fill", **options: Any) -> ChunkOutputs:
    sent = message(len(x), on_error)
    rows, records = fed_rows(sent, with_unfed(x, unfed))
    one = model(**options)
    step = RowRange(sent.start, sent.stop, sent.stop)
    return ChunkRun(sent, {"m": one}, rows, Stopwatch(), records).run([step], lambda _: None)


def test_another_row_stands_in_their_place_while_the_others_run() -> None:
    seen: list[list[float]] = []

    def watched(x: np.ndarray) -> np.ndarray:
        seen.append(x.tolist())
        return x * 2

    ran = run(np.array([-9, 1, -9, 3, 4], np.float32), {0: "null", 2: "null too"}, preprocess=watched)
    assert seen == [[1, 1, 1, 3, 4]]
    np.testing.assert_array_equal(ran.outputs["m"], [np.nan, 4, np.nan, 12, 16])
    expected = [
        FailureRecord(FIRST + at, FIRST + at + 1, "read", "InputError", why)
        for at, why in ((0, "null"), (2, "null too"))
    ]
    assert ran.failed_rows == expected
    assert with_values(ran.failed_rows, {"t": np.array(["a"] * 5, object)}, FIRST) == expected


def test_paths_that_are_no_text_are_named_escaped() -> None:
    record = FailureRecord(FIRST, FIRST + 1, "preprocess", "ValueError", "lost")
    rows = np.array([b"/data/\\xfe\xff\n.jpg", b"\x89PNG\0"], object)
    (named,) = with_values([record], rows, FIRST)
    assert named.value == "/data/\\x5cxfe\\xff\n.jpg"
    assert named.rows == f"row {FIRST} (/data/\\x5cxfe\\xff\\n.jpg)", "on one line"
    assert [one.value for one in with_values([record], rows[1:], FIRST)] == [""]


def test_rows_that_fail_beside_them_have_their_own_records_alone() -> None:
    def picky(x: np.ndarray) -> np.ndarray:
        if 1 in x:
            raise ValueError("a one")
        return x

    ran = run(np.array([1, 0, 5, 1, 0], np.float32), {1: "null", 4: "null"}, preprocess=picky)
    assert [(one.start - FIRST, one.stage) for one in ran.failed_rows] == [
        (0, "preprocess"),
        (1, "read"),
        (3, "preprocess"),
        (4, "read"),
    ]
    assert ran.outputs["m"][2] == 10
    dropping = run(
        np.arange(4, dtype=np.float32),
        {2: "null"},
        preprocess=lambda x: [None if value == 1 else value for value in x],
        drops=True,
    )
    assert dropping.dropped == [(FIRST + 1, FIRST + 2)]
    assert [one.start - FIRST for one in dropping.failed_rows] == [2]


def test_a_chunk_of_nothing_else_is_not_run() -> None:
    ran = run(np.zeros(2, np.float32), {0: "null", 1: "null"}, call=lambda x: 1 / 0)
    assert (len(ran.failed_rows), ran.outputs, ran.failed) == (2, {}, [])


def test_where_no_row_may_fail_the_chunk_does() -> None:
    (record,) = run(np.zeros(2, np.float32), {1: "null"}, on_error="raise").failed
    assert (record.start, record.text) == (FIRST + 1, "null")


def test_rows_that_are_not_independent_fail_together() -> None:
    sent = message(3)
    rows, records = fed_rows(sent, with_unfed(np.zeros(3, np.float32), {1: "null"}))
    one = model()
    object.__setattr__(one, "info", msgspec.structs.replace(one.info, independent_rows=False))
    ran = ChunkRun(sent, {"m": one}, rows, Stopwatch(), records).run([RowRange(FIRST, FIRST + 3, FIRST + 3)], None)
    assert [one.start - FIRST for one in ran.failed_rows] == [0, 1, 2]
    assert ran.failed_rows[0].text == f"with all rows {FIRST}-{FIRST + 3} of its chunk: null"


def test_the_first_row_that_can_be_fed_is_held_against_the_models() -> None:
    asked: list[Any] = []
    batches = [batch(0, 2, 0, 1), batch(2, 5, 2)]
    source = BatchReader("x", 5, lambda: (one for one in batches))
    feed = BatchFeed(source, check=asked.append, blank={}, goes_on=True)
    chunks: list[Any] = []
    wait_until(lambda: chunks.append(feed.next_chunk(2)) or [one for one in chunks if one][2:], "all rows are cut")
    assert [sorted(unfed_of(one[1])) for one in chunks if one] == [[0, 1], [0], []]
    assert [one["x"].tolist() for one in asked] == [[3]]
    assert isinstance(next(one for one in chunks if one)[1], Marked)


@pytest.mark.parametrize("at", [-1, 3, "0", True])
def test_rows_that_a_chunk_has_not_are_none_that_fail(at: Any) -> None:
    with pytest.raises(PayloadError, match="cannot be fed"):
        fed_rows(message(3), with_unfed(np.zeros(3, np.float32), {at: "null"}))
