"""A model's own functions: found by name, called with all rows, held to one row out for each row in."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.models.model_version import entry_digest, model_digest
from tasks.models.user_functions import finished, import_step, prepared
from worker_config.errors import ModelError
from worker_config.manifest import ModelEntry

ROWS = np.arange(6.0).reshape(3, 2)


def test_a_function_is_found_by_its_name() -> None:
    assert import_step("os.path:join") is __import__("os").path.join
    assert import_step("pathlib:Path.exists") is Path.exists


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("no_such_module:f", "No module named 'no_such_module'.*looked for in"),
        ("json:no_such", "AttributeError: module 'json' has no attribute 'no_such'"),
        ("math:pi", "is a float, not a function"),
    ],
)
def test_what_is_no_function_is_refused(name: str, told: str) -> None:
    with pytest.raises(ImportError, match=told):
        import_step(name)


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (ROWS, ROWS),
        ({"a": ROWS, "b": [1, 2, 3]}, {"a": ROWS, "b": [np.array(1), np.array(2), np.array(3)]}),
        ((ROWS, ROWS[:, 0]), (ROWS, ROWS[:, 0])),
        (({"a": ROWS}, ROWS), ({"a": ROWS}, ROWS)),
        ([ROWS, ROWS[:1], ROWS[0]], [ROWS, ROWS[:1], ROWS[0]]),
    ],
)
def test_rows_may_be_made_into_any_rows(result: Any, expected: Any) -> None:
    made, kept = prepared(lambda rows: result, ROWS, 3, "m")
    assert kept is None
    assert type(made) is type(expected)
    np.testing.assert_equal(made, expected)


@pytest.mark.parametrize("call", [prepared, finished])
@pytest.mark.parametrize(
    ("result", "told"),
    [
        (ROWS[:2], "m returned 2 rows for 3"),
        ({"a": ROWS, "b": ROWS[:1]}, "m returned [13] and [13] rows for 3"),
        (np.float32(1), "m returned no rows for 3"),
        ({}, "m returned"),
        (None, "m returned nothing"),
        ({"a": ROWS, "b": {}}, "m returned a dict without arrays"),
        ([[1, 2], [3]], "m returned"),
        (np.ma.masked_equal([1, 2, 3], 2), "m returned masked values; fill them first"),
        ({1: ROWS, "1": ROWS}, "m returned two outputs of one name"),
    ],
)
def test_anything_but_a_row_for_each_row_is_an_error(call: Any, result: Any, told: str) -> None:
    with pytest.raises(ModelError, match=told):
        call(lambda rows: result, ROWS, 3, "m")


@pytest.mark.parametrize("call", [prepared, finished])
def test_who_takes_the_columns_of_a_dict_for_its_rows_is_told_so(call: Any) -> None:
    told = r"returned 1 rows for 3; .* a dict of the columns 'image': take their rows by name, as rows\['image'\]"
    with pytest.raises(ModelError, match=told):
        call(lambda rows: [np.float32(len(row)) for row in rows], {"image": ROWS}, 3, "m")
    with pytest.raises(ModelError, match=r"returned 1 rows for 3; it must return one for each$"):
        call(lambda rows: [np.float32(0)], ROWS, 3, "m")


def test_what_a_function_raises_is_told_with_its_name() -> None:
    def wrong(rows: Any) -> Any:
        raise KeyError("label")

    with pytest.raises(ModelError, match="model m: preprocess p:f raised KeyError: 'label'"):
        prepared(wrong, ROWS, 3, "model m: preprocess p:f")


def test_outputs_may_get_names_and_labels() -> None:
    labels = finished(lambda outputs: {"label": ["a", "b", "c"], 7: outputs}, ROWS, 3, "m")
    assert list(labels) == ["label", "7"]
    assert labels["label"].tolist() == ["a", "b", "c"]


def test_the_functions_and_their_files_are_part_of_a_model_s_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.keras").write_bytes(b"weights")
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").write_text("raise SystemExit('never imported')")
    source = tmp_path / "pack" / "steps.py"
    source.write_text("def f(rows): return rows")

    plain = ModelEntry(str(tmp_path / "model.keras"))
    assert entry_digest(plain) == model_digest(tmp_path / "model.keras")
    entries = [
        ModelEntry(plain.path, preprocess="pack.steps:f"),
        ModelEntry(plain.path, preprocess="pack.steps:g"),
        ModelEntry(plain.path, postprocess="pack.steps:f"),
        ModelEntry(plain.path, preprocess="pack.none:f"),
    ]
    before = [entry_digest(entry) for entry in [plain, *entries]]
    assert len(set(before)) == len(before)
    source.write_text("def f(rows): return rows[::-1]")
    after = [entry_digest(entry) for entry in [plain, *entries]]
    assert [then == now for then, now in zip(before, after, strict=True)] == [True, False, False, False, True]
    assert "pack" not in sys.modules
