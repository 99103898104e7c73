"""CSV files: the types of their columns by all rows, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from producer.sources import open_csv, open_source
from tasks.datasets.formats import csv as csv_format
from worker_config.errors import InputError


def written(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def columns(path: Path, **options: Any) -> dict[str, np.ndarray[Any, Any]]:
    batches: Any = list(open_csv(path, **options).batches())
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def refused(path: Path, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        columns(path, **options)
    text = str(caught.value)
    assert text.startswith(str(path.parent))
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("texts", "values"),
    [
        (["1", "-2", " 3 "], [1, -2, 3]),
        (["1", "18446744073709551615", "2"], [1, 2**64 - 1, 2]),
        (["1", "2.5", "1e3"], [1.0, 2.5, 1000.0]),
        (["1", "inf", "-0.5"], [1.0, np.inf, -0.5]),
        (["true", "false", "true"], [True, False, True]),
        (["a", "1", ""], ["a", "1", ""]),
        (["2024-05-01", "2024-05-02", "NA"], ["2024-05-01", "2024-05-02", "NA"]),
        (["0123", "4567", "0"], ["0123", "4567", "0"]),
        (["-012", "1", "1"], ["-012", "1", "1"]),
        (["12345678901234567890123", "1", "2"], ["12345678901234567890123", "1", "2"]),
        (["0x1F", "1", "2"], ["0x1F", "1", "2"]),
        (["9007199254740993", "NaN", "2"], ["9007199254740993", "NaN", "2"]),
        (["1e400", "inf", "2"], ["1e400", "inf", "2"]),
        (["1e300", "inf", "-Infinity"], [1e300, np.inf, -np.inf]),
        (['"a,b"', '"c\nd"', '"e""f"'], ["a,b", "c\nd", 'e"f']),
        (["é", "ü", "ß"], ["é", "ü", "ß"]),
    ],
)
def test_a_column_has_the_type_of_all_its_values(tmp_path: Path, texts: list[str], values: list[Any]) -> None:
    lines = "".join(f"{number},{text}\n" for number, text in enumerate(texts))
    read = columns(written(tmp_path / "x.csv", f"n,x\n{lines}"))

    assert read["n"].tolist() == [0, 1, 2]
    assert read["x"].tolist() == values
    assert [type(value) for value in read["x"].tolist()] == [type(value) for value in values]


def test_types_hold_for_rows_far_away_and_other_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_format, "MAX_BATCH_BYTES", 4096)
    monkeypatch.setattr(csv_format, "_BLOCK_BYTES", 4096)
    rows = [str(number) for number in range(5_000)]
    written(tmp_path / "1.csv", "\n".join(["a,b", *(f"{row},{row}" for row in rows)]))
    written(tmp_path / "2.csv", "b,a\nx,1.5\n")
    read = columns(tmp_path)

    assert open_source(tmp_path).rows == 5_001
    assert read["a"].tolist() == [*map(float, rows), 1.5]
    assert read["b"].tolist() == [*rows, "x"]


def test_columns_are_chosen_and_those_without_a_name_have_their_place(tmp_path: Path) -> None:
    path = written(tmp_path / "x.csv", ",p0,p1\nk,1,2\n")

    assert list(columns(path)) == ["column0", "p0", "p1"]
    assert list(columns(path, columns=["p1", "column0"])) == ["p1", "column0"]
    assert list(columns(path, columns=["p0..p1"])) == ["p0", "p1"]
    assert list(columns(path, columns="p0..p1")) == ["p0", "p1"]


def test_a_file_of_names_alone_has_no_rows(tmp_path: Path) -> None:
    source = open_csv(written(tmp_path / "x.csv", "a,b\n"))
    assert (source.rows, list(source.batches())) == (0, [])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "Empty CSV file"),
        (b"a,b\n1\n", "Expected 2 columns, got 1"),
        (b"a,a\n1,2\n", "has two columns of the name 'a'; rename one"),
        (b"a,b\n1,\xff\n", "invalid UTF8 data"),
        (b"a;b\n1,5;2\n", "its values are separated by ';'; separate them by commas"),
        (b"a\n1\n\n2\n", "column 'a': row 1 is or holds null"),
        (b"a,b\n1,1\n2,\n", "column 'b': row 1 is or holds null"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    assert words in refused(written(tmp_path / "x.csv", content))


def test_files_must_have_the_same_columns(tmp_path: Path) -> None:
    written(tmp_path / "1.csv", "a,b\n1,2\n")
    written(tmp_path / "2.csv", "a\n1\n")

    assert "2.csv: has no column 'b'; its columns are 'a'" in refused(tmp_path / "*.csv")
    assert "1.csv: has no column 'c'" in refused(tmp_path / "1.csv", columns=["c"])


def test_a_file_that_changes_is_noticed(tmp_path: Path) -> None:
    source = open_csv(written(tmp_path / "x.csv", "a\n1\n2\n"))
    written(tmp_path / "x.csv", "a\n1\nx\n")

    with pytest.raises(InputError, match="has changed since it was opened"):
        list(source.batches())


def test_rows_that_lack_a_value_of_a_column_that_is_taken_are_marked(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a,b,c\n1,1,\n2,,1\n3,3,1\n")
    for columns, rows in ({"both": ["a", "b"]}, {"both": [[1, 1], [2, 1], [3, 3]]}), (["b"], {"b": [1, 1, 3]}):
        source: Any = open_source(tmp_path / "x.csv", columns=columns)
        (batch,) = source.marked_batches()
        assert {name: column.tolist() for name, column in batch.rows.items()} == rows
        assert list(batch.unfed) == [1]
        with pytest.raises(InputError, match="column 'b': row 1 is or holds null"):
            list(source.batches())
