"""A data set on disk is known again, and a change of it is seen, without a look at what it holds."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr

from producer.sources import fingerprint
from worker_config.errors import InputError

Change = Callable[[Path], object]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", np.arange(3))
    Path("parts").mkdir()
    for name in ("a.jpg", "b.jpg", "c.txt"):
        (Path("parts") / name).write_bytes(b"123")
    zarr.create_array("x.zarr", data=np.arange(8), chunks=(4,))
    return tmp_path


ALL = pytest.mark.parametrize("name", ["x.npy", "parts", "parts/*", "x.zarr"])


@ALL
def test_what_did_not_change_is_the_same_however_it_is_named(folder: Path, name: str) -> None:
    seen = fingerprint(name)
    assert fingerprint(Path(name)) == fingerprint(folder / name) == fingerprint(f"./parts/../{name}") == seen
    Path("link.npy").symlink_to("x.npy")
    assert fingerprint("link.npy") == fingerprint("x.npy")


def test_a_file_is_told_by_path_bytes_and_time(folder: Path) -> None:
    os.utime("x.npy", ns=(0, 1_700_000_000_123_456_789))
    assert fingerprint("x.npy") == {
        "path": str(folder / "x.npy"),
        "bytes": Path("x.npy").stat().st_size,
        "modified": "2023-11-14 22:13:20.123456789",
    }


def a_file(name: str) -> Path:
    """One of those that the data set is."""
    found = [Path(name), *Path().glob(f"{name}/**/*"), *Path().glob(name)]
    return next(path for path in sorted(found) if path.is_file())


@ALL
def test_a_later_time_is_a_change(name: str) -> None:
    before, file = fingerprint(name), a_file(name)
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
    assert fingerprint(name) != before


@ALL
def test_another_size_is_a_change_whatever_the_time(name: str) -> None:
    before, file = fingerprint(name), a_file(name)
    status = file.stat()
    file.write_bytes(file.read_bytes() + b"0")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert fingerprint(name)["bytes"] == int(before["bytes"]) + 1


@pytest.mark.parametrize("name", ["parts", "parts/*", "x.zarr"])
@pytest.mark.parametrize(
    "change",
    [
        lambda file: file.with_name("new.jpg").touch(),
        lambda file: file.unlink(),
        lambda file: file.rename(file.with_name("other.jpg")),
    ],
    ids=["added", "removed", "renamed"],
)
def test_another_set_of_files_is_a_change(name: str, change: Change) -> None:
    before = fingerprint(name)
    change(a_file(name))
    assert fingerprint(name) != before


def test_what_is_no_part_of_the_data_set_is_no_change() -> None:
    before = fingerprint("parts"), fingerprint("parts/*.jpg")
    Path("parts/.out.npy.journal").touch()
    Path("parts/sub").mkdir()
    Path("parts/sub/d.jpg").touch()
    assert (fingerprint("parts"), fingerprint("parts/*.jpg")) == before
    Path("parts/d.txt").touch()
    assert fingerprint("parts") != before[0]
    assert fingerprint("parts/*.jpg") == before[1]


def test_names_of_any_bytes_are_taken(folder: Path) -> None:
    (folder / os.fsdecode(b"parts/\xff.jpg")).touch()
    assert fingerprint("parts")["files"] == 4


@pytest.mark.parametrize(
    ("name", "words"),
    [("none.npy", "no such file"), ("none/*", "no files match"), ("empty", "no files in it"), ("pipe", "regular file")],
)
def test_what_is_not_there_is_an_input_error(name: str, words: str) -> None:
    Path("empty").mkdir()
    os.mkfifo("pipe")
    with pytest.raises(InputError, match=words):
        fingerprint(name)
