"""Rows that failed, in every format: left out or filled, with the row's number where there is one, and continued."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.feather
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from producer.rows.drop_rows import drop_rows
from producer.rows.part import Part
from producer.sinks import FORMATS, JournalHead, Sink, open_sink
from producer.sinks.journal import journal_path
from tasks.outputs.failed_mask import Fill, mask_path
from tasks.protocol.messages import OnError
from tests.failed_rows import POLICIES, good_rows, kept, parts_with_failures, record, rows_of, take_marks
from tests.sink_outputs import READERS, ROWS, leaves, names
from worker_config.errors import CeleriacError, MessageError, OutputError

FAILED = {0, 6, 7, 10, 11, 12, 13, 14, 22}
OUTPUTS: dict[str, Any] = {
    "scores": np.linspace(0, 1, ROWS * 3, dtype=np.float32).reshape(ROWS, 3),
    "label": np.arange(1, ROWS + 1, dtype=np.int64),
}


def outputs_for(path: Path) -> Any:
    return OUTPUTS["scores"] if path.suffix == ".npy" else OUTPUTS


def journalled(
    path: Path, on_error: OnError, rows: int | None = ROWS, *, resume: bool = False, sync_seconds: float = 0
) -> Sink:
    head = JournalHead({"path": "rows.npy"}, {"digits": "9f3c"}, on_error)
    return open_sink(path, rows, False, journal=head, resume=resume, sync_seconds=sync_seconds)


def read(path: Path) -> tuple[dict[str, Any], list[int] | None]:
    """The arrays of an output by name, and its column `row`, if the format has one."""
    if path.suffix in (".parquet", ".feather"):
        reader = pyarrow.parquet if path.suffix == ".parquet" else pyarrow.feather
        table = reader.read_table(path)
        columns = {name: np.array(table[name].to_pylist()) for name in table.column_names}
    elif path.suffix == ".jsonl":
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        columns = {name: np.array([_number(line[name]) for line in lines]) for name in lines[0]}
    elif path.suffix == ".csv":
        numbered = path.with_name("numbered.csv")  # rows that are left out are missing in their numbers
        header, *lines = path.read_text().splitlines()
        numbered.write_text("\n".join([header, *(f"{n},{line.partition(',')[2]}" for n, line in enumerate(lines))]))
        columns = {**READERS[".csv"](numbered), "row": np.array([int(line.partition(",")[0]) for line in lines])}
        numbered.unlink()
    else:
        return READERS[path.suffix](path), None
    return columns, columns.pop("row").tolist()


def _number(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, list):
        return [_number(one) for one in value]
    return np.nan if value is None else value


def check(path: Path, failed: set[int], on_error: OnError, *, marked: bool = True) -> None:
    arrays, numbers = read(path)
    assert take_marks(path, arrays) == (sorted(failed) if marked and on_error == "fill" else None)
    expected = leaves(kept(outputs_for(path), ROWS, failed, on_error))
    if path.suffix == ".npy":
        expected = {"output": expected[""]}
    assert arrays.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(arrays[name].astype(array.dtype), array)
    assert numbers in (None, good_rows(0, ROWS, failed if on_error == "skip" else ()))
    marks = [mask_path(path).name] if path.suffix == ".npy" and marked and on_error == "fill" else []
    assert names(path.parent) == [path.name, *marks]


@pytest.mark.parametrize("rows", [ROWS, None], ids=["rows known", "rows unknown"])
@pytest.mark.parametrize("journal", [False, True])
@pytest.mark.parametrize("on_error", POLICIES)
@pytest.mark.parametrize("chunk_rows", [1, 5, ROWS])
def test_rows_that_failed_are_left_out_or_filled(
    path: Path, rows: int | None, journal: bool, on_error: OnError, chunk_rows: int
) -> None:
    sink = journalled(path, on_error, rows) if journal else open_sink(path, rows, False)
    with sink:
        for part in parts_with_failures(outputs_for(path), ROWS, FAILED, on_error, chunk_rows):
            sink.write(part)
        sink.commit()
    assert rows_of(sink.failures) == sorted(FAILED)
    assert (sink.failed_rows, sink.left_out) == (len(FAILED), len(FAILED) if on_error == "skip" else 0)
    check(path, FAILED, on_error, marked=journal)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=15)
@given(
    data=st.data(),
    rows=st.sampled_from([ROWS, None]),
    on_error=st.sampled_from(POLICIES),
    failed=st.sets(st.integers(0, ROWS - 1), max_size=ROWS - 1),
    chunk_rows=st.integers(1, 9),
)
def test_a_run_cut_anywhere_goes_on_and_knows_the_earlier_failures(
    tmp_path_factory: pytest.TempPathFactory,
    suffix: str,
    data: st.DataObject,
    rows: int | None,
    on_error: OnError,
    failed: set[int],
    chunk_rows: int,
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    running, cut = (folder / name / f"out{suffix}" for name in ("running", "cut"))
    running.parent.mkdir()
    outputs = outputs_for(cut)
    parts = parts_with_failures(outputs, ROWS, failed, on_error, chunk_rows)
    with journalled(running, on_error, rows) as sink:
        for part in parts[: data.draw(st.integers(0, len(parts)), "parts written")]:
            sink.write(part)
        shutil.copytree(running.parent, cut.parent)  # what a process that is killed here leaves
    journal = journal_path(cut)
    os.truncate(journal, data.draw(st.integers(0, journal.stat().st_size), "bytes of the journal that were written"))

    with journalled(cut, on_error, rows, resume=True) as sink:
        done = sink.done_rows
        assert rows_of(sink.failures) == sorted(row for row in failed if row < done)
        assert sink.left_out == (len(sink.failures) if on_error == "skip" else 0)
        for part in parts_with_failures(outputs, ROWS, failed, on_error, 4, start=done) if done < ROWS else ():
            sink.write(part)
        sink.commit()
    assert rows_of(sink.failures) == sorted(failed)
    check(cut, failed, on_error)


def test_an_abort_keeps_the_failures_of_every_row_that_was_written(path: Path) -> None:
    parts = parts_with_failures(outputs_for(path), ROWS, FAILED, "skip")
    for start, stop in ((0, 2), (2, 3), (3, 5)):
        with journalled(path, "skip", resume=True, sync_seconds=3600) as sink:
            for part in parts[start:stop]:
                sink.write(part)
    with journalled(path, "skip", resume=True) as sink:
        assert (sink.done_rows, sink.left_out, sink.failures) == (ROWS, len(FAILED), [*map(record, sorted(FAILED))])
        sink.commit()
    check(path, FAILED, "skip")


def test_another_policy_is_refused_with_the_reason(path: Path) -> None:
    with journalled(path, "skip") as sink:
        sink.write(parts_with_failures(outputs_for(path), ROWS, FAILED, "skip")[0])
    for other in ("raise", "fill"):
        expected = rf"cannot be continued: .* treated otherwise \(--on-error skip before, {other} now\); start over"
        with pytest.raises(OutputError, match=expected):
            journalled(path, other, resume=True)  # type: ignore[arg-type]


@pytest.mark.parametrize("on_error", POLICIES)
def test_where_a_row_would_have_ended_the_run_it_may_fail_from_then_on(path: Path, on_error: OnError) -> None:
    done, failed = 10, {row for row in FAILED if row >= 10}
    with journalled(path, "raise") as sink:
        for part in parts_with_failures(outputs_for(path), done, set(), "skip"):
            sink.write(part)
    if on_error == "fill" and path.suffix not in (".npy", ".npz"):
        words = (
            r"treated otherwise \(--on-error raise before, fill now\).* marks; continue with --on-error skip, or start"
        )
        with pytest.raises(OutputError, match=words):
            journalled(path, "fill", resume=True)
        on_error = "skip"
    journalled(path, on_error, resume=True).abort()  # a run that does nothing is continued in its turn
    with pytest.raises(OutputError, match=rf"\(--on-error {on_error} before, raise now\)"):
        journalled(path, "raise", resume=True)
    for part in parts_with_failures(outputs_for(path), ROWS, failed, on_error, start=done):
        with journalled(path, on_error, resume=True) as sink:
            sink.write(part)
    with journalled(path, on_error, resume=True) as sink:
        assert (sink.accepted, rows_of(sink.failures)) == ([], sorted(failed))
        sink.commit()
    check(path, failed, on_error)


@pytest.mark.parametrize("name", ["out.npy", "out.npz", "out.zarr"])
def test_parts_in_any_order_lack_no_rows(tmp_path: Path, name: str) -> None:
    parts = parts_with_failures(OUTPUTS["label"], ROWS, {7}, "skip")
    with open_sink(tmp_path / name, ROWS, False) as sink:
        sink.write(parts[2])
        sink.write(parts[0])
        with pytest.raises(MessageError, match="chunk 1 lacks rows, so all parts must come in order"):
            sink.write(parts[1])
    with open_sink(tmp_path / name, ROWS, False) as sink:
        sink.write(parts[0])
        sink.write(parts[1])
        with pytest.raises(MessageError, match="chunk 3 starts at row 15, the next one is row 10"):
            sink.write(parts[3])


@pytest.mark.parametrize("name", ["out.npy", "out.npz", "out.zarr"])
def test_a_filler_and_its_mark_come_in_any_order(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with open_sink(path, ROWS, False, mask=True) as sink:
        for part in parts_with_failures(outputs_for(path), ROWS, FAILED, "fill")[::-1]:
            sink.write(part)
        sink.commit()
    check(path, FAILED, "fill")


def write_filled(path: Path, outputs: Any, failed: set[int] = FAILED) -> Sink:
    with journalled(path, "fill") as sink:
        for part in parts_with_failures(outputs, ROWS, failed, "fill"):
            sink.write(part)
        sink.commit()
    return sink


def test_a_filled_output_without_a_name_is_marked_too(path: Path) -> None:
    fill = write_filled(path, OUTPUTS["label"]).fill
    arrays, _ = read(path)
    assert take_marks(path, arrays) == sorted(FAILED)
    ((name, labels),) = arrays.items()
    assert name == ("arr_0" if path.suffix == ".npz" else "output")
    assert sorted(np.flatnonzero(labels == -1)) == sorted(FAILED)
    assert fill == Fill("out.npy.failed.npy" if path.suffix == ".npy" else "failed", {name: -1})


@pytest.mark.parametrize(
    ("outputs", "name"),
    [
        ({"failed": OUTPUTS["label"]}, "failed_rows"),
        ({"failed": {"scores": OUTPUTS["scores"]}, "failed_rows": {"scores": OUTPUTS["scores"]}}, "failed_rows2"),
    ],
    ids=["an output", "models"],
)
@pytest.mark.parametrize("suffix", [suffix for suffix in FORMATS if suffix != ".npy"])
def test_a_mark_has_another_name_where_outputs_or_models_have_it(path: Path, outputs: Any, name: str) -> None:
    fill = write_filled(path, outputs).fill
    assert fill is not None
    assert fill.mark == name
    arrays, _ = read(path)
    assert take_marks(path, arrays, name) == sorted(FAILED)
    assert arrays.keys() == leaves(outputs).keys() == fill.values.keys()


def test_no_row_failed_and_no_row_at_all_are_told_too(path: Path) -> None:
    write_filled(path, outputs_for(path), set())
    check(path, set(), "fill")
    empty = path.with_name(f"empty{path.suffix}")
    head = JournalHead({"path": "rows.npy"}, {"digits": "9f3c"}, "fill")
    with open_sink(empty, 0, False, journal=head) as sink:
        sink.write(Part(0, 0, 0, OUTPUTS["scores"][:0]))
        sink.commit()
    if path.suffix != ".jsonl":
        arrays = READERS[path.suffix](empty)
        assert take_marks(empty, arrays) == []


def test_rows_dropped_on_purpose_have_no_mark(path: Path) -> None:
    part = drop_rows(Part(0, 0, 5, np.arange(5), (record(1), record(4)), dropped=((2, 4),)), with_failed=False)
    with journalled(path, "fill", 5) as sink:
        sink.write(part)
        sink.commit()
    assert take_marks(path, read(path)[0]) == [1, 2]


def test_a_run_that_continues_has_the_counts_of_rows_that_are_not_finite(path: Path) -> None:
    parts = parts_with_failures(outputs_for(path), ROWS, FAILED, "fill")
    for stop in (2, 4):
        with journalled(path, "fill", resume=True, sync_seconds=3600) as sink:
            for part in parts[stop - 2 : stop]:
                sink.write(replace(part, nonfinite=(1, 2)))
    with journalled(path, "fill", resume=True) as sink:
        assert sink.nonfinite == (4, 8)
        sink.write(parts[4])
        sink.commit()
    check(path, FAILED, "fill")


def test_rows_that_are_missing_without_a_record_are_an_error(path: Path) -> None:
    first, second, *_ = parts_with_failures(outputs_for(path), ROWS, set(), "skip")
    with open_sink(path, ROWS, False) as sink:
        sink.write(first)
        with pytest.raises(CeleriacError, match="must have 3 rows"):
            sink.write(type(second)(second.index, second.start, second.stop, second.outputs, (), 2))
