"""Files as a data set: their paths, or their bytes."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from producer.sources import fingerprint, open_files
from producer.sources.picked import pick
from tasks.datasets.rows import Marked
from worker_config.errors import InputError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in {"b.txt": b"bb", "a.jpg": b"a\0", "c.txt": b"", ".hidden": b"h", "sub/d.txt": b"d"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    return tmp_path


def test_paths_are_rows_in_sorted_order(folder: Path) -> None:
    source = open_files(folder)

    assert (source.rows, source.path) == (3, None)
    assert list(source.take(0, 3)) == [str(folder / name) for name in ("a.jpg", "b.txt", "c.txt")]
    assert list(source.take(1, 2)) == [str(folder / "b.txt")]


def test_a_pattern_chooses_files(folder: Path) -> None:
    found = open_files(folder / "**" / "*.txt")

    assert list(found.take(0, found.rows)) == [str(folder / name) for name in ("b.txt", "c.txt", "sub/d.txt")]


def test_paths_are_absolute(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)

    assert list(open_files("*.jpg").take(0, 1)) == [str(folder / "a.jpg")]


def test_a_name_with_pattern_characters_is_a_name(tmp_path: Path) -> None:
    (tmp_path / "x[1]").mkdir()
    (tmp_path / "x[1]" / "a").write_bytes(b"1")

    assert list(open_files(tmp_path / "x[1]", contents=True).take(0, 1)) == [b"1"]


def test_contents_are_rows_of_bytes(folder: Path) -> None:
    source = open_files(folder, contents=True)

    assert source.rows == 3
    assert source.row_bytes == pytest.approx(4 / 3)
    assert list(source.take(0, 3)) == [b"a\0", b"bb", b""]
    assert source.take(1, 2).dtype == object  # type: ignore[union-attr]
    with pytest.raises(InputError, match="there are 3"):
        source.take(0, 4)


def test_a_file_that_has_gone_is_named(folder: Path) -> None:
    source = open_files(folder, contents=True)
    (folder / "b.txt").unlink()

    assert list(source.take(0, 1)) == [b"a\0"]
    with pytest.raises(InputError, match=r"b\.txt: no such file"):
        source.take(0, 3)


def test_a_name_that_is_no_text_comes_as_bytes(folder: Path) -> None:
    odd = os.fsencode(folder) + b"/b\xff.txt"
    Path(os.fsdecode(odd)).write_bytes(b"odd")

    assert open_files(folder).take(0, 4).tolist() == [  # type: ignore[union-attr]
        str(folder / "a.jpg"),
        str(folder / "b.txt"),
        odd,
        str(folder / "c.txt"),
    ]
    source = open_files(folder, contents=True)
    assert list(source.take(2, 3)) == [b"odd"]
    Path(os.fsdecode(odd)).unlink()
    with pytest.raises(InputError, match=r"/b\\xff\.txt: no such file"):
        source.take(2, 3)
    json.dumps(fingerprint(folder), ensure_ascii=False).encode()


def test_a_file_that_cannot_be_read_is_a_row_that_is_marked(folder: Path) -> None:
    source = open_files(folder, contents=True)
    (folder / "b.txt").unlink()

    for taken in (source.take_marked(0, 3), pick(source, np.array([0, 1, 2])).take_marked(0, 3)):  # type: ignore[union-attr]
        assert isinstance(taken, Marked)
        assert list(taken.rows) == [b"a\0", b"", b""]
        assert taken.unfed == {1: f"{folder / 'b.txt'}: no such file; check the path"}
    assert list(source.take_marked(0, 1)) == [b"a\0"]  # type: ignore[union-attr, arg-type]


def test_a_link_that_leads_nowhere_is_a_row_that_fails(folder: Path) -> None:
    (folder / "gone").symlink_to("none")
    (folder / "loop").symlink_to("loop")
    for path in (folder, folder / "*[!b]"):
        source = open_files(path, contents=True)
        assert {*source.take_marked(0, source.rows).unfed} >= {source.rows - 2, source.rows - 1}  # type: ignore[union-attr]
        assert open_files(path).take(source.rows - 2, source.rows).tolist() == [  # type: ignore[union-attr]
            str(folder / "gone"),
            str(folder / "loop"),
        ]
    before = fingerprint(folder)
    (folder / "gone").unlink()
    (folder / "gone").symlink_to("nobody")
    assert fingerprint(folder) != before


def test_subfolders_are_told_of(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    open_files(folder / "*")
    assert not caplog.records
    open_files(folder)
    told = f"its subfolders are left out: sub; for their files too give the pattern {folder}/**/*"
    assert [record.getMessage() for record in caplog.records] == [f"{folder.name}: {told}"]


def test_no_files_are_refused(folder: Path) -> None:
    (folder / "empty").mkdir()

    with pytest.raises(InputError, match=r"\*\.png: no files match"):
        open_files(folder / "*.png")
    with pytest.raises(InputError, match=r"has no files in it; for files in subfolders give the pattern .*/\*\*/\*"):
        open_files(folder / "empty")
    with pytest.raises(InputError, match="no such file"):
        open_files(folder / "none")
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff")).mkdir()
    with pytest.raises(InputError, match=r"/\\xff: has no files in it"):
        open_files(os.fsdecode(os.fsencode(folder) + b"/\xff"))
