"""Columns as people name them, and inputs that are made of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tasks.protocol.made_inputs import with_made
from worker_config.columns import MOST_COLUMNS, expanded, parsed
from worker_config.errors import InputError, UsageError

ROWS = {"a0": np.array([1, 2]), "a1": np.array([3.5, 4]), "v": np.ones((2, 2)), "word": np.array(["x", "y"], object)}


@pytest.mark.parametrize(
    ("names", "every"),
    [
        (["age"], ["age"]),
        (["p0..p3", "age"], ["p0", "p1", "p2", "p3", "age"]),
        (["p8..p11"], ["p8", "p9", "p10", "p11"]),
        (["p08..p11"], ["p08", "p09", "p10", "p11"]),
        (["1..3"], ["1", "2", "3"]),
        (["a.b0..a.b1"], ["a.b0", "a.b1"]),
        (["odd..name"], ["odd..name"]),
    ],
)
def test_ranges_are_the_names_that_they_stand_for(names: list[str], every: list[str]) -> None:
    assert expanded(names) == every


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], "is empty"),
        (["a", ""], "an empty name"),
        (["a", "b", "a"], "column 'a' is named twice"),
        (["p3..p1"], r"the range 'p3\.\.p1' is none"),
        (["p1..q3"], "is none"),
        (["p01..p100"], "is none"),
        ([f"p0..p{MOST_COLUMNS}"], "more than 100,000 columns"),
        ([f"p0..p{10**30}"], "more than 100,000 columns"),
    ],
)
def test_what_names_no_columns_is_refused(names: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        expanded(names)


def test_the_command_line_names_columns_and_inputs() -> None:
    assert parsed(["a,b", "pixels=p0..p1,c"]) == {"a": ["a"], "b": ["b"], "pixels": ["p0", "p1", "c"]}
    for texts, words in ([["a", "a=b"], "'a' twice"], [["=b"], "no input"], [["x="], "is empty, or has"]):
        with pytest.raises(UsageError, match=words):
            parsed(texts)


def test_several_columns_stand_side_by_side() -> None:
    made = with_made(ROWS, {"x": ["a0..a1", "v"], "text": ["word"]}, "m")
    assert list(made) == ["x", "text"]
    assert made["x"].tolist() == [[1, 3.5, 1, 1], [2, 4, 1, 1]]
    assert made["text"] is ROWS["word"]


def test_a_column_that_is_an_input_too_stays() -> None:
    assert list(with_made(ROWS, {"x": ["a0", "a1"]}, "m", also=["a1"])) == ["a1", "v", "word", "x"]


def test_rows_that_have_the_input_already_are_left_as_they_are() -> None:
    assert with_made({"x": ROWS["v"]}, {"x": ["a0", "a1"]}, "m") == {"x": ROWS["v"]}


def test_arrays_without_names_are_the_inputs_of_the_model_that_takes_them() -> None:
    assert with_made(ROWS["v"], {"x": ["a0", "a1"]}, "m", also=["x"]) is ROWS["v"]


@pytest.mark.parametrize(
    ("rows", "columns", "words"),
    [
        (ROWS, {"x": ["a0", "gone"]}, "model m: 'x' is made of column 'gone', which the data set does not have"),
        (ROWS, {"x": ["a0", "word"]}, r"texts \(column 'word'\) and numbers"),
        ({"a": np.ones((2, 2, 2)), "b": np.ones(2)}, {"x": ["a", "b"]}, "must be numbers, or lists of one length"),
        ({"a": [np.ones(2), np.ones(3)], "b": np.ones(2)}, {"x": ["a", "b"]}, "lists of one length"),
        (ROWS["v"], {"x": ["a"]}, "'x' is made of columns by name; the data set has none: give a table"),
    ],
)
def test_columns_that_do_not_go_together_are_told(rows: Any, columns: dict[str, list[str]], words: str) -> None:
    with pytest.raises(InputError, match=words):
        with_made(rows, columns, "model m")
