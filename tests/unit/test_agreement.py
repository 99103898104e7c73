"""Agreement by class: which class loses rows, and which has too few to be judged by."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tasks.accuracy.accuracy_gate import compare
from tasks.accuracy.class_agreement import agreement_text, agreements, percent, rows_needed, too_few
from tasks.preparation.choice import choose
from tasks.snapshots.record import ClassAgreement, Trial, Trials
from worker_config.manifest import ModelEntry

# 1,000 rows of four classes, of which one is rare and one is never the largest.
TRUTH = np.array([0] * 690 + [1] * 300 + [2] * 10)
SCORES = np.eye(4, dtype=np.float32)[TRUTH]


def moved(rows: list[int], to: int) -> np.ndarray[Any, Any]:
    """The scores, with these rows in another class."""
    outputs = SCORES.copy()
    outputs[rows] = np.eye(4)[to]
    return outputs


def test_a_rare_class_that_is_lost_shows_though_the_whole_agrees() -> None:
    found = compare([SCORES], [moved(list(range(990, 1000)), 0)], exact=False, agreement=0.99)
    assert (found.agrees, found.agreement) == (True, 0.99)
    assert found.classes == [
        ClassAgreement(0, "2", 10, 0.0),
        ClassAgreement(0, "1", 300, 1.0),
        ClassAgreement(0, "0", 690, 1.0),
        ClassAgreement(0, "3", 0),
    ]
    refused = compare([SCORES], [moved([*range(5), *range(990, 998)], 1)], exact=False, agreement=0.99).why
    assert refused == (
        "has the same largest output for 98.70 % of 1,000 rows (least of class 2: 20.00 % of 10), 99 % are asked for"
    )


def test_no_class_is_the_least_where_all_agree_alike() -> None:
    found = agreements([SCORES], [SCORES])
    assert agreement_text(1.0, found.classes, 1000) == "the same largest output for 100.00 % of 1,000 rows"


def test_labels_texts_and_places_have_classes_too() -> None:
    texts = np.array([b"cat", b"dog", b"cat"], object)
    found = agreements([texts], [np.array([b"cat", b"cat", b"cat"], object)])
    assert [(one.name, one.rows, one.agreement) for one in found.classes] == [("dog", 1, 0.0), ("cat", 2, 1.0)]
    places = SCORES[::250].reshape(2, 2, 4)  # two rows of two places
    assert sum(one.rows for one in agreements([places], [places]).classes) == 4
    both = agreements([SCORES, TRUTH], [SCORES, np.where(TRUTH == 2, 1, TRUTH)])
    assert both.share == 0.99
    assert "least of class 2 of output 1: 0.00 % of 10" in agreement_text(0.99, both.classes, 1000)


def test_of_a_vocabulary_the_thousand_that_agree_least_are_listed() -> None:
    labels = np.arange(3_000)
    found = agreements([labels], [np.where(labels < 2, -1, labels)])
    assert len(found.classes) == 1_000
    assert [one.agreement for one in found.classes[:3]] == [0.0, 0.0, 1.0]


def test_made_up_rows_of_float32_have_no_classes() -> None:
    assert compare([SCORES], [SCORES]).classes == []


@pytest.mark.parametrize(("agreement", "rows"), [(0.995, 200), (0.99, 100), (0.9, 30), (1.0, 30), (0.999, 1000)])
def test_a_class_needs_rows_of_which_one_is_no_more_than_may_change(agreement: float, rows: int) -> None:
    assert rows_needed(agreement) == rows


def test_classes_with_too_few_rows_are_told() -> None:
    classes = agreements([SCORES], [SCORES]).classes
    assert too_few(classes, 0.995) == (
        "2 of 4 classes have too few rows to be judged at an agreement of 99.5 %, which takes 200: class 3 has 0"
    )
    assert too_few([one for one in classes if one.rows], 0.9).startswith("1 of 3 classes has too few rows")
    assert too_few([one for one in classes if one.rows > 10], 0.995) == ""


@pytest.mark.parametrize(
    ("share", "text"), [(1.0, "100.00 %"), (0.99996, "99.99 %"), (0.995, "99.50 %"), (0, "0.00 %")]
)
def test_no_share_is_rounded_up_to_the_whole(share: float, text: str) -> None:
    assert percent(share) == text


def note_of(entry: ModelEntry, lower: Trial, rows_in_file: int = 1000) -> str:
    trials = Trials([Trial("graph", True, 0.1), lower], "rows.npy", {}, rows_in_file)
    return choose(trials, entry, weight_bytes=1, children=1, available_bytes=10**9)[1]


def test_the_note_says_what_a_precision_was_held_to() -> None:
    entry = ModelEntry(path="m", precision=["bfloat16"], calibration="rows.npy", agreement=0.99)
    classes = agreements([SCORES], [moved(list(range(990, 1000)), 0)]).classes
    lower = Trial("bfloat16", True, 0.05, error=0.01, agreement=0.99, rows=1000, classes=classes)
    assert note_of(entry, lower) == (
        "bfloat16 has the same largest output for 99.00 % of 1,000 rows (least of class 2: 0.00 % of 10); "
        "2 of 4 classes have too few rows to be judged at an agreement of 99 %, which takes 100: class 3 has 0"
    )
    assert note_of(entry, lower, 60_000).endswith("; 1,000 of the 60,000 rows of rows.npy were looked at")
    by_tolerance = ModelEntry(path="m", precision=["bfloat16"], calibration="rows.npy", tolerance=0.1)
    assert note_of(by_tolerance, lower) == "bfloat16 has a deviation of 0.01 of the outputs' spread on 1,000 rows"
    slow = Trial("bfloat16", True, 0.2, rows=1000, classes=classes)
    assert "not faster" in note_of(entry, slow)
    assert "class 3 has 0" in note_of(entry, slow)
