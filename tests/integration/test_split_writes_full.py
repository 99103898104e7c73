"""A disk that is full while workers write an output: the job waits, says so, and goes on when there is room."""

from __future__ import annotations

import logging
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from producer import Client
from producer.outputs.summary import PredictionFailedError
from tests.output_sets import assert_same
from tests.split_writes import predict, rows_with, stepped, writing
from tests.systems import System

UMOUNT = ["umount", "-l"]
DISK_BYTES = 4 * 2**20
# Of the parts of all rows, about; each of 12 chunks has one, and the file of them all is as large.
PARTS_BYTES = 210_000


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A small disk of its own, where this process may mount one."""
    folder = tmp_path_factory.mktemp("disk")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "none", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no `mount`")
    if done.returncode:
        pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run([*UMOUNT, str(folder)], check=True)


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, disk: Path) -> Iterator[System]:
    environ = {"CELERIAC_OUTPUT_ROOTS": str(disk)}
    with writing(tmp_path_factory.mktemp("f"), stepped("all_kinds"), environ=environ) as system:
        yield system


class _Told(logging.Handler):
    """What the job says; at the first word of a full disk room is made, if it may."""

    def __init__(self, ballast: Path | None) -> None:
        super().__init__()
        self.texts: list[str] = []
        self._ballast = ballast

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())
        if self._ballast and "; waiting" in record.getMessage():
            self._ballast.unlink(missing_ok=True)


@pytest.fixture
def told(disk: Path) -> Iterator[_Told]:
    handler = _Told(disk / "ballast")
    logging.getLogger("producer").addHandler(handler)
    yield handler
    logging.getLogger("producer").removeHandler(handler)
    for path in disk.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def fill(disk: Path, left: int) -> None:
    """Leave so many bytes."""
    (disk / "ballast").write_bytes(bytes(DISK_BYTES - left))


@pytest.mark.parametrize(
    ("left", "part_bytes"),
    [(PARTS_BYTES // 3, 10**9), (PARTS_BYTES * 4 // 3, 10**9), (PARTS_BYTES // 2, 40_000)],
    ids=["parts", "the merge", "both"],
)
def test_a_job_waits_for_room(
    client: Client, disk: Path, tmp_path: Path, told: _Told, left: int, part_bytes: int
) -> None:
    data = rows_with([5, *range(256, 512)], [7])
    output, file = disk / f"set{left}.parquet", tmp_path / "file.parquet"
    options: Any = {"on_error": "fill", "sync_seconds": 0.0}
    fill(disk, left)
    summary = predict(client, "all_kinds", data, output, part_bytes=part_bytes, **options)
    predict(client, "all_kinds", data, file, in_parts=False, **options)
    assert_same(output, file)
    assert summary.ledger["failed"] == 257
    waits = [text for text in told.texts if "; waiting" in text]
    assert waits, "the disk was never full"
    assert all("no space left on " in text and f" under {disk}" in text for text in waits)


def test_a_job_that_has_waited_for_long_ends_and_is_continued(
    client: Client, disk: Path, tmp_path: Path, told: _Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, output, file = rows_with(), disk / "out.parquet", tmp_path / "file.parquet"
    told._ballast = None
    fill(disk, PARTS_BYTES // 2)
    with monkeypatch.context() as patch:
        patch.setattr("producer.job.resend.REFUSED_WAIT_SECONDS", 0.3)
        with pytest.raises(PredictionFailedError) as caught:
            predict(client, "all_kinds", data, output, part_bytes=10**9, sync_seconds=0.0)
    words = r"no space left on \S+ under .*, for \d+ s; make room, and continue with --resume; \d+ rows are safe"
    assert caught.match(words)
    (disk / "ballast").unlink()
    predict(client, "all_kinds", data, output, resume=True)
    predict(client, "all_kinds", data, file, in_parts=False)
    assert_same(output, file)
