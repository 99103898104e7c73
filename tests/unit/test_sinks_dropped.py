"""A model that fails alone is taken out of outputs that have places for each: whenever, and however often continued."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from producer.sinks import FORMATS, JournalHead, Sink, open_sink
from tasks.protocol.messages import FailureRecord
from tests.sink_outputs import MODELS, READERS, ROWS, leaves, parts_of
from worker_config.errors import MessageError, OutputError

HEAD = JournalHead({"path": "rows.npy"}, {"digits": "9f3c", "letters": "77aa", "words": "12bc"})
# Dropped is the one in the middle, so that what is numbered after it would be mistaken for it.
OUTPUTS: dict[str, Any] = {
    "digits": MODELS["digits"],
    "letters": {"x": np.ones((ROWS, 2)), "y": np.arange(ROWS)},
    "words": np.arange(ROWS, dtype=np.float32),
}
RECORD = FailureRecord(7, 9, "infer", "LookupError", "no such letter", "letters")
DROPPING = (".npz", ".zarr")


@pytest.fixture(params=DROPPING)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / f"out{request.param}"


def check_without_letters(path: Path) -> None:
    expected = leaves({name: tree for name, tree in OUTPUTS.items() if name != "letters"})
    found = READERS[path.suffix](path)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
    assert [file.name for file in path.parent.iterdir()] == [path.name], "nothing is left behind"
    if path.is_dir():
        assert not (path / "letters").exists()


def journalled(path: Path, rows: int | None = ROWS, resume: bool = False) -> Sink:
    return open_sink(path, rows, False, journal=HEAD, resume=resume, sync_seconds=0)


@pytest.mark.parametrize("rows", [ROWS, None])
@pytest.mark.parametrize("journal", [False, True])
@pytest.mark.parametrize("at", [0, 1, 3, 5])
def test_a_model_dropped_at_any_time_is_not_in_the_output(path: Path, rows: int | None, journal: bool, at: int) -> None:
    sink = journalled(path, rows) if journal else open_sink(path, rows, False)
    with sink:
        for number, part in enumerate(parts_of(OUTPUTS)):
            if number == at:
                sink.drop("letters", RECORD)
            sink.write(part.without({"letters"}) if number > at else part)
        sink.drop("letters", RECORD)
        sink.commit()
    assert sink.dropped == {"letters": RECORD}
    check_without_letters(path)


def test_parts_in_any_order_may_have_the_model_or_not(path: Path) -> None:
    with open_sink(path, ROWS, False) as sink:
        for number, part in enumerate(parts_of(OUTPUTS)[::-1]):
            if number == 2:
                sink.drop("letters", RECORD)
            sink.write(part.without({"letters"}) if number % 2 and number > 2 else part)
        sink.commit()
    check_without_letters(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=15)
@given(data=st.data(), rows=st.sampled_from([ROWS, None]), first=st.integers(0, 5), second=st.integers(0, 5))
def test_a_run_that_continues_is_without_the_model(
    tmp_path_factory: pytest.TempPathFactory,
    path: Path,
    data: st.DataObject,
    rows: int | None,
    first: int,
    second: int,
) -> None:
    path = tmp_path_factory.mktemp("cut") / path.name
    at = data.draw(st.integers(0, 4), "dropped before this part")
    dropped = False
    for stop in sorted((first, second)):
        with journalled(path, rows, resume=True) as sink:
            assert bool(sink.dropped) == dropped, "it is not brought back, where a row of it is safe"
            for part in parts_of(OUTPUTS)[-(-sink.done_rows // 5) : stop]:
                if part.index == at:
                    sink.drop("letters", RECORD)
                sink.write(part.without({"letters"}) if sink.dropped and part.index % 2 else part)
            dropped = bool(sink.dropped) and sink.safe_rows is not None
    with journalled(path, rows, resume=True) as sink:
        assert sink.dropped == ({"letters": RECORD} if dropped else {})
        sink.drop("letters", RECORD)
        for part in parts_of(OUTPUTS)[-(-sink.done_rows // 5) :]:
            sink.write(part.without({"letters"}))
        sink.commit()
    check_without_letters(path)


def test_a_drop_is_noted_without_another_row(path: Path) -> None:
    with journalled(path) as sink:
        for part in parts_of(OUTPUTS):
            sink.write(part)
        sink.drop("letters", RECORD)
    with journalled(path, resume=True) as sink:
        assert (sink.done_rows, sink.dropped) == (ROWS, {"letters": RECORD})
        sink.commit()
    check_without_letters(path)


def test_a_drop_before_the_first_row_leaves_nothing_to_continue(path: Path) -> None:
    with journalled(path) as sink:
        sink.drop("letters", RECORD)
        assert sink.safe_rows is None
    assert list(path.parent.iterdir()) == []


def test_a_part_without_a_model_that_was_not_dropped_is_refused(path: Path) -> None:
    first, second, *_ = parts_of(OUTPUTS)
    with open_sink(path, ROWS, False) as sink:
        sink.write(first)
        with pytest.raises(MessageError, match="has the outputs"):
            sink.write(second.without({"letters"}))


@pytest.mark.parametrize("suffix", [suffix for suffix in FORMATS if suffix not in DROPPING])
def test_formats_whose_rows_stand_together_drop_nothing(tmp_path: Path, suffix: str) -> None:
    with open_sink(tmp_path / f"out{suffix}", ROWS, False) as sink:
        assert not sink.can_drop
        with pytest.raises(OutputError, match=r"model letters cannot be taken out of rows that are written; use \.npz"):
            sink.drop("letters", RECORD)
