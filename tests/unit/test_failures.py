"""What failures mean for a job: which models are left out, what ends it, and how much of it is remembered."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.records.failures import MOST_KEPT, Failures, failed_alone
from producer.rows.part import renumbered
from tasks.protocol.messages import FailureRecord


def record(model: str, start: int = 17) -> FailureRecord:
    return FailureRecord(start, start + 1, "infer", "LookupError", "no such word", model)


@given(failed=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9)), max_size=12))
def test_models_are_left_out_until_the_last_one(failed: list[tuple[str, int]]) -> None:
    failures = Failures("3f2a", ["a", "b", "c"])
    ended = False
    for model, start in failed:
        before = dict(failures.models)
        last = failures.judge([record(model, start)])
        assert last is None or last == record(model, start)
        ended = ended or last is not None
        assert before.keys() <= failures.models.keys()
        assert len(failures.models) < 3
        if last is not None:
            assert failures.models == before
            assert before.keys() == set("abc") - {model}
    assert ended == ({model for model, _ in failed} == set("abc"))
    for model, first in failures.models.items():
        assert first.start == min(start for name, start in failed if name == model)


def test_models_that_fail_on_the_same_chunk_end_the_job_only_if_none_is_left() -> None:
    failures = Failures("3f2a", ["a", "b", "c"])
    assert failures.judge([]) is None
    assert failures.judge([record("c")]) is None
    assert failures.judge([record("c"), record("b")]) is None
    assert failures.judge([record("c"), record("b"), record("a")]) == record("a")
    assert failures.models.keys() == {"b", "c"}


def test_models_that_fail_together_end_the_job_at_once() -> None:
    failures = Failures("3f2a", ["a", "b"], together=True)
    assert failures.judge([record("b")]) == record("b")
    assert failures.models == {}


def test_a_model_is_told_of_once(caplog: Any) -> None:
    failures = Failures("3f2a", ["a", "b"])
    with caplog.at_level(logging.WARNING):
        failures.judge([record("b", 20)])
        failures.judge([record("b", 10)])
    assert [entry.getMessage() for entry in caplog.records] == [
        "job 3f2a: model b failed alone at row 20 (infer: LookupError: no such word); its outputs are left out"
    ]
    assert failures.models["b"].start == 10


def test_records_of_some_rows_are_those_of_the_data_set() -> None:
    failures = Failures("3f2a", ["a"], of_data_set=partial(renumbered, numbers=np.array([3, 739, 740, 850])))
    failures.keep([FailureRecord(1, 4, "infer", "LookupError", "no"), FailureRecord(0, 1, "infer", "E", "no")])
    assert [(kept.start, kept.stop) for kept in failures.in_order()] == [(3, 4), (739, 741), (850, 851)]
    assert failures.of_data_set(FailureRecord(3, 4, "infer", "LookupError", "no"))[0].rows == "row 850"


def test_records_are_bounded_and_the_rest_is_counted() -> None:
    failures = Failures("3f2a", ["a", "b"])
    failures.keep(record("b", row) for row in range(MOST_KEPT + 3))
    assert [kept.start for kept in failures.records] == list(range(MOST_KEPT))
    assert failures.more == 3


@pytest.mark.parametrize(
    ("models", "line"),
    [
        (["b"], "model b failed alone at row 17 (infer: LookupError: no such word); its outputs are left out"),
        (
            ["b", "c"],
            "model b failed alone at row 17 (infer: LookupError: no such word); model c .*; their outputs are",
        ),
    ],
)
def test_failed_models_are_one_line(models: list[str], line: str) -> None:
    said = failed_alone({name: record(name) for name in models})
    begin, _, end = line.partition(".*")
    assert said.startswith(begin)
    assert end in said
    assert "\n" not in said
