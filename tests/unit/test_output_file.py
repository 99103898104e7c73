"""A file that a thread brings to the disk while it grows."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from tasks.outputs import output_file
from tasks.outputs.output_file import OutputFile
from tests.waiting import wait_until


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_file, "WRITE_BACK_BYTES", 1000)


def test_what_is_written_is_brought_to_the_disk_before_anybody_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda _: by.append(threading.current_thread().name))
    with OutputFile(tmp_path / "x", "x") as file:
        file.write(b"a" * 999)
        file.flush()
        assert not by
        file.write(b"b" * 10_000)
        file.flush()
        wait_until(lambda: by == ["celeriac-write-back"], "the thread has brought it to the disk")
        file.sync()
    assert by == ["celeriac-write-back", "MainThread"]
    assert (tmp_path / "x").read_bytes() == b"a" * 999 + b"b" * 10_000


def test_an_error_of_the_thread_is_raised_by_each_write_and_sync_that_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = threading.Event()

    def refuse(_: int) -> None:
        monkeypatch.setattr(os, "fsync", lambda _: None)  # as Linux does, which tells of it once
        tried.set()
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", refuse)
    with OutputFile(tmp_path / "x", "x") as file:
        file.write(b"a" * 10_000)
        file.flush()
        wait_until(lambda: tried.is_set() and not _at_work(), "the disk has refused")
        for _ in range(2):
            with pytest.raises(OSError, match="Input/output error"):
                file.sync()
        with pytest.raises(OSError, match="Input/output error"):
            file.write(b"b" * 10_000)


def test_a_file_is_not_closed_while_the_thread_is_at_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on, used = threading.Event(), []

    def slow(number: int) -> None:
        goes_on.wait()
        used.append(os.fstat(number))  # an error, if it were closed

    monkeypatch.setattr(os, "fsync", slow)
    file = OutputFile(tmp_path / "x", "x")
    file.write(b"a" * 10_000)
    file.flush()
    closing = threading.Thread(target=file.close)
    closing.start()
    assert not file.raw.closed
    goes_on.set()
    closing.join()
    assert file.closed
    assert [one.st_size for one in used] == [10_000]


def _at_work() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "celeriac-write-back"]
