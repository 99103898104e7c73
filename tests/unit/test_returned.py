"""Outputs as columns of the caller's own frame: beside their rows, under names that are free, in types that fit."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pandas
import polars
import pyarrow as pa
import pytest

from producer.rows.returned import Form
from worker_config.errors import UsageError

ROWS = {"id": [10, 11, 12], "y": ["a", "b", "c"]}
OUTPUTS: dict[str, Any] = {
    "score": np.array([[0.5], [1.5], [np.nan]], np.float32),
    "many": np.arange(6, dtype=np.int16).reshape(3, 2),
    "deep": np.arange(12.0).reshape(3, 2, 2),
    "text": np.array(["u", "", "ä"], object),
    "raw": np.array([b"x", b"", b"\xff"], object),
    "half": np.array([1, 2, 3], ml_dtypes.bfloat16),
    "sure": np.array([True, False, True]),
}
FRAMES = {
    "pandas": lambda: pandas.DataFrame(ROWS, index=[7, 7, 8]),
    "polars": lambda: polars.DataFrame(ROWS),
    "table": lambda: pa.table(ROWS),
    "batch": lambda: pa.record_batch(ROWS),
}


@pytest.fixture(params=FRAMES)
def frame(request: pytest.FixtureRequest) -> Any:
    return FRAMES[request.param]()


def column(frame: Any, name: str) -> list[Any]:
    values = frame.column(name) if hasattr(frame, "column") else frame[name]
    return (
        [value.tolist() if hasattr(value, "tolist") else value for value in values.to_pylist()]
        if hasattr(values, "to_pylist")
        else np.asarray(values.to_list(), object).tolist()
    )


def names_of(frame: Any) -> list[str]:
    return list(getattr(frame, "column_names", None) or frame.columns)


def test_outputs_stand_beside_their_rows_in_a_frame_of_the_same_kind(frame: Any) -> None:
    given = Form("frame", frame).of(OUTPUTS, lambda: np.arange(3))
    assert type(given) is type(frame)
    assert names_of(given) == [*ROWS, *OUTPUTS]
    assert names_of(frame) == [*ROWS]  # which stays as it was
    for name, values in {**ROWS, **OUTPUTS}.items():
        values = np.asarray(values)
        wanted = values.astype(np.float32) if name == "half" else values[:, 0] if name == "score" else values
        for found, one in zip(column(given, name), wanted.tolist(), strict=True):
            assert np.array_equal(np.asarray(found, object), np.asarray(one, object)) or found != found
    if isinstance(frame, pandas.DataFrame):
        assert list(given.index) == [7, 7, 8]


def test_rows_that_have_no_outputs_leave_the_frame(frame: Any) -> None:
    outputs = {name: array[[0, 2]] for name, array in OUTPUTS.items()}
    given = Form("frame", frame).of(outputs, lambda: np.array([0, 2]))
    assert column(given, "id") == [10, 12]
    assert column(given, "text") == ["u", "ä"]
    if isinstance(frame, pandas.DataFrame):
        assert list(given.index) == [7, 8]
    none = Form("frame", frame).of({"many": OUTPUTS["many"][:0]}, lambda: np.arange(0))
    assert column(none, "id") == column(none, "many") == []


@pytest.mark.parametrize(
    ("outputs", "name", "names"),
    [
        (np.ones(3), "", ["output"]),
        (np.ones(3), "score", ["score"]),
        (np.ones(3), "y", ["y_predicted"]),
        ({"y": np.ones(3), "y_predicted": np.ones(3)}, "", ["y_predicted", "y_predicted_predicted"]),
        ({"m": {"a": np.ones(3), "b": np.ones(3)}, "n": np.ones(3)}, "", ["m/a", "m/b", "n"]),
    ],
)
def test_names_of_outputs_are_made_free(frame: Any, outputs: Any, name: str, names: list[str]) -> None:
    given = Form("frame", frame).of(outputs, lambda: np.arange(3), name)
    assert names_of(given) == [*ROWS, *names]
    assert column(given, "y") == ROWS["y"]


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (np.ones(3, np.complex64), "'z' is complex64 rows of shape"),
        (np.ones((3, 2, 0)), r"rows of shape \(2, 0\)"),
        (np.array(["a", "\ud800", "c"], object), "'z' cannot be a column of string: "),
    ],
)
def test_outputs_that_are_no_column_are_told(output: Any, words: str) -> None:
    for make in (FRAMES["polars"], FRAMES["table"]):
        with pytest.raises(UsageError, match=words):
            Form("frame", make()).of({"z": output}, lambda: np.arange(3))


def test_outputs_of_other_rows_are_never_put_beside() -> None:
    with pytest.raises(UsageError, match="output 'z' has 2 rows, and 3 rows of the frame have outputs"):
        Form("frame", pa.table(ROWS)).of({"z": np.ones(2)}, lambda: np.arange(3))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"returns": "rows"}, "returns is 'rows'; it may be 'arrays' or 'frame'"),
        ({"returns": "frame"}, "and the data set is no frame; leave it out"),
        ({"returns": "frame", "frame": object()}, "the data set is a object"),
        ({"returns": "frame", "frame": pa.table(ROWS), "keep": "id"}, "gives all columns back; leave keep out"),
    ],
)
def test_what_cannot_be_given_back_is_refused_before_the_work(options: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Form(**options)


def test_views_of_texts_stay_views_where_rows_leave() -> None:
    columns = {
        "text": pa.array(["a", "b", "c"], pa.string_view()),
        "lists": pa.array([["x"], [], ["z"]], pa.list_(pa.string_view())),
    }
    for frame in (pa.table(columns), pa.record_batch(columns)):
        given = Form("frame", frame).of(np.ones(2), lambda: np.array([2, 0]))
        assert given.schema.names == ["text", "lists", "output"]
        assert given.schema.field("text").type == pa.string_view()
        assert given["text"].to_pylist() == ["c", "a"]


def test_a_column_may_be_called_as_a_method_of_others_is() -> None:
    frame = pandas.DataFrame({"column_names": [1, 2, 3], "hstack": [1, 2, 3]})
    given = Form("frame", frame).of(np.ones(3), lambda: np.arange(3), "hstack")
    assert list(given.columns) == ["column_names", "hstack", "hstack_predicted"]


def test_numbers_are_not_copied() -> None:
    score = np.arange(3.0)
    assert np.shares_memory(
        Form("frame", pa.table(ROWS)).of(score, lambda: np.arange(3))["output"].chunk(0).to_numpy(), score
    )
