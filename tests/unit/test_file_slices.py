"""Slices of a producer's file: opened under the roots alone, read only if it is still the file that was meant."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from tasks.protocol import codec
from tasks.protocol.messages import FileRef, SliceRef
from tasks.transport import spool
from tasks.transport.file_slices import read_slice
from tasks.transport.spool import ReusableBuffer
from worker_config.errors import PayloadError
from worker_config.files import is_under

ROWS = np.arange(60, dtype=np.float32).reshape(10, 2, 3)


@pytest.fixture
def ref(tmp_path: Path) -> SliceRef:
    path = tmp_path / "rows.npy"
    np.save(path, ROWS)
    status = path.stat()
    return SliceRef(str(path), status.st_size, status.st_mtime_ns, 128, "float32", (2, 3))


def test_the_rows_are_those_of_the_array(ref: SliceRef, tmp_path: Path) -> None:
    for start, stop in ((0, 10), (3, 4), (7, 7)):
        np.testing.assert_array_equal(read_slice(ref, start, stop, [tmp_path]), ROWS[start:stop])


def test_a_file_outside_the_roots_is_not_opened(ref: SliceRef, tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    link = tmp_path / "inside" / "link.npy"
    link.symlink_to(ref.path)
    dots = str(tmp_path / "inside" / ".." / "rows.npy")
    for path in (ref.path, str(link), dots):
        with pytest.raises(PayloadError, match="CELERIAC_DATA_ROOTS"):
            read_slice(msgspec.structs.replace(ref, path=path), 0, 1, [tmp_path / "inside"])
    with pytest.raises(PayloadError, match="CELERIAC_DATA_ROOTS"):
        read_slice(ref, 0, 1, [])


@pytest.mark.parametrize(
    "path",
    ["s3://rows/database/x", "s3://other/data/x", "s3://rows/data/../x", "gs://rows/data/x", "s3://a@rows/data/x"],
)
def test_an_object_outside_the_roots_is_not_asked_for(
    ref: SliceRef, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, path: str
) -> None:
    asked: list[object] = []
    monkeypatch.setattr("tasks.storage.read_ahead.read_range", lambda *of: asked.append(of))
    with pytest.raises(PayloadError, match="not under a URL of CELERIAC_DATA_ROOTS"):
        read_slice(msgspec.structs.replace(ref, path=path), 0, 1, [tmp_path, "s3://rows/data", Path("/")])
    assert asked == []


def test_a_root_may_itself_be_a_link(ref: SliceRef, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("roots") / "root"
    root.symlink_to(tmp_path)
    assert is_under(str(root / "rows.npy"), [root])
    np.testing.assert_array_equal(read_slice(ref, 0, 2, [root]), ROWS[:2])


@pytest.mark.parametrize("swapped", ["file", "folder"])
def test_a_link_that_takes_a_place_after_the_check_is_not_followed(
    ref: SliceRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, swapped: str
) -> None:
    root, secrets = tmp_path / "root", tmp_path / "secrets"
    (root / "sub").mkdir(parents=True)
    secrets.mkdir()
    os.link(ref.path, root / "sub" / "rows.npy")
    os.link(ref.path, secrets / "rows.npy")  # size and time are right, too
    follow, asked = os.path.realpath, []

    def follow_and_swap(path: str | Path) -> str:
        real = follow(path)
        if not asked and str(path).endswith("rows.npy"):
            asked.append(path)
            target = root / "sub" / "rows.npy" if swapped == "file" else root / "sub"
            target.rename(tmp_path / "moved")
            target.symlink_to(secrets / "rows.npy" if swapped == "file" else secrets)
        return real

    monkeypatch.setattr("tasks.transport.file_slices.os.path.realpath", follow_and_swap)
    inside = msgspec.structs.replace(ref, path=str(root / "sub" / "rows.npy"))
    with pytest.raises(PayloadError, match="cannot be opened"):
        read_slice(inside, 0, 2, [root])
    assert asked


def test_a_file_that_has_changed_is_refused(ref: SliceRef, tmp_path: Path) -> None:
    os.utime(ref.path, ns=(0, 0))
    with pytest.raises(PayloadError, match="has changed"):
        read_slice(ref, 0, 1, [tmp_path])


@pytest.mark.parametrize(
    "change", [{"offset": 10**9}, {"row_shape": (2**40, 2**40)}, {"dtype": "object"}, {"path": "/"}]
)
def test_a_ref_that_lies_is_refused(ref: SliceRef, tmp_path: Path, change: dict[str, object]) -> None:
    with pytest.raises(PayloadError):
        read_slice(msgspec.structs.replace(ref, **change), 0, 10, [tmp_path, "/"])


def test_a_folder_or_a_pipe_is_no_file(ref: SliceRef, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", ""):
        with pytest.raises(PayloadError):
            read_slice(msgspec.structs.replace(ref, path=str(tmp_path / name)), 0, 1, [tmp_path])


def test_a_payload_in_the_spool_comes_back_until_it_is_forgotten(tmp_path: Path) -> None:
    first, second = (spool.write(tmp_path, "0123456789ab", "rows-1", [payload]) for payload in (b"one", b"two"))
    assert (spool.read(tmp_path, first), spool.read(tmp_path, second)) == (b"one", b"two")
    spool.forget(tmp_path, [first])
    with pytest.raises(PayloadError, match="cannot be read"):
        spool.read(tmp_path, first)
    with pytest.raises(PayloadError, match="CELERIAC_SPOOL"):
        spool.read(None, second)
    spool.forget_job(tmp_path, "0123456789ab")
    assert list(tmp_path.iterdir()) == []


def test_a_mark_tells_one_folder_from_another(tmp_path: Path) -> None:
    mark = spool.make_mark(tmp_path)
    assert spool.has_mark(tmp_path, mark)
    assert not spool.has_mark(tmp_path, "")
    assert not spool.has_mark(tmp_path, "../" + tmp_path.name)
    spool.remove_mark(tmp_path, mark)
    assert not spool.has_mark(tmp_path, mark)


def test_what_a_killed_producer_left_goes_after_its_time(tmp_path: Path) -> None:
    old, young = FileRef("000000000000/rows-1"), FileRef("111111111111/rows-1")
    for ref in (old, young):
        spool.write(tmp_path, ref.name[:12], "rows-1", [b"x"])
    os.utime(tmp_path / "000000000000", (0, 0))
    spool.forget_old_jobs(tmp_path, ttl_seconds=3600)
    assert [path.name for path in tmp_path.iterdir()] == ["111111111111"]


def test_a_released_file_is_written_over_and_cut_to_its_new_length(tmp_path: Path) -> None:
    job = "0123456789ab"
    first = spool.write(tmp_path, job, "rows-1", [b"a long payload"])
    inode = (tmp_path / first.name).stat().st_ino
    spool.release(tmp_path, [first])
    with pytest.raises(PayloadError, match="cannot be read"):
        spool.read(tmp_path, first)
    second = spool.write(tmp_path, job, "output-7", [b"sho", memoryview(b"rt"), b""])
    assert (tmp_path / second.name).stat().st_ino == inode
    assert spool.read(tmp_path, second) == b"short"
    third = spool.write(tmp_path, job, "output-8", [b"x"] * 2000)  # more parts than the system takes at once
    assert spool.read(tmp_path, third) == b"x" * 2000
    assert spool.read(tmp_path, second) == b"short"


@pytest.mark.parametrize(
    "tree", [np.arange(12.0).reshape(3, 4), {"a": np.arange(6, dtype=np.int8), "b": np.zeros((2, 0)), "c": np.ones(())}]
)
def test_a_payload_is_read_straight_into_arrays_of_its_form(tmp_path: Path, tree: Any) -> None:
    ref = spool.write(tmp_path, "0123456789ab", "output-1", codec.encode_parts(tree))
    room = {name: np.full_like(array, 9) for name, array in tree.items()} if isinstance(tree, dict) else tree * 0
    assert spool.read_into(tmp_path, ref, bytearray(), codec.encode_parts(room))
    np.testing.assert_equal(room, tree)


@pytest.mark.parametrize(
    "other",
    [
        np.zeros((3, 5)),
        np.zeros((4, 3)),
        np.zeros((3, 4), np.int64),
        {"a": np.zeros((3, 4))},
        {f"{number}": np.zeros(1) for number in range(500)},
    ],
    ids=["longer", "another shape", "another dtype", "another tree", "more parts than the system takes"],
)
def test_a_payload_of_another_form_is_not_taken(tmp_path: Path, other: Any) -> None:
    ref = spool.write(tmp_path, "0123456789ab", "output-1", codec.encode_parts(np.arange(12.0).reshape(3, 4)))
    assert not spool.read_into(tmp_path, ref, bytearray(), codec.encode_parts(other))
    gone = FileRef("0123456789ab/output-2-00000000")
    assert not spool.read_into(tmp_path, gone, bytearray(), codec.encode_parts(np.zeros((3, 4))))
    same = spool.write(tmp_path, "0123456789ab", "output-3", codec.encode_parts(other))
    assert spool.read_into(tmp_path, same, bytearray(), codec.encode_parts(other)) == (len(other) < 500)


def test_a_forgotten_payload_is_read_to_its_end_by_who_has_it_open(tmp_path: Path) -> None:
    job = "0123456789ab"
    ref = spool.write(tmp_path, job, "rows-1", [b"first"])
    with (tmp_path / ref.name).open("rb", buffering=0) as stream:
        spool.forget(tmp_path, [ref])
        spool.write(tmp_path, job, "rows-1", [b"again"])
        assert stream.read() == b"first"


def test_processes_that_want_the_same_free_file_do_not_share_it(tmp_path: Path) -> None:
    job, payloads = "0123456789ab", [bytes([number]) * 50_000 for number in range(8)]
    for _ in range(20):
        with ThreadPoolExecutor(8) as pool:
            refs = list(pool.map(lambda payload: spool.write(tmp_path, job, "rows", [payload]), payloads))
        assert [spool.read(tmp_path, ref) for ref in refs] == payloads
        spool.release(tmp_path, refs[::2])
        spool.forget(tmp_path, refs[1::2])


def test_what_is_read_into_the_same_memory_replaces_what_was_there(tmp_path: Path) -> None:
    scratch, payloads = ReusableBuffer(), [b"first", b"2nd", b"the third one"]
    refs = [spool.write(tmp_path, "0123456789ab", "rows", [payload]) for payload in payloads]
    views = []
    for ref, payload in zip(refs, payloads, strict=True):
        views.append(spool.read(tmp_path, ref, scratch))
        assert views[-1] == payload
    assert views[0] == b"2ndst"  # why nothing of a chunk may outlive it
