"""Parts of which the producer's journal does not know, as it was killed: they count where they prove what they are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from producer import Client
from producer.outputs.sidecar_files import read_beside
from producer.outputs.summary import Summary
from producer.rows.part import Part
from producer.sinks import Sink
from producer.sinks.folder import FolderWriter
from producer.sinks.journal import JournalHead
from tests.output_sets import assert_same
from tests.split_writes import CHUNK_ROWS, ROWS, predict, rows_with, stepped, writing
from tests.systems import System
from tests.waiting import wait_until

# The journal knows the first of twelve chunks; the producer dies when it has the eighth.
SEEN = 8 * CHUNK_ROWS
RAISING, DROPPED = [300, *range(700, 720)], [5, 900, 901]


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with writing(tmp_path_factory.mktemp("l"), stepped("all_kinds")) as system:
        yield system


@pytest.fixture
def data() -> np.ndarray:
    return rows_with(RAISING, DROPPED)


class _KilledError(BaseException):
    """In the place of a kill."""


def kill_producer(system: System, client: Client, data: Any, folder: Path, on_error: Any = "fill") -> None:
    """Leave what a producer leaves that is killed: a journal that knows one chunk, and parts of others."""
    write, sync = Sink.write, Sink._sync

    def dies(sink: Sink, part: Part) -> None:
        write(sink, part)
        if part.stop >= SEEN:
            raise _KilledError

    def knows_one_chunk(sink: Sink, **more: Any) -> None:
        if sink._layout.placed <= CHUNK_ROWS:
            sync(sink, **more)

    def ends(sink: Sink) -> None:
        sink._ended = True
        if sink._journal:
            sink._journal.close()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sink, "write", dies)
        patch.setattr(Sink, "_sync", knows_one_chunk)
        patch.setattr(Sink, "abort", ends)
        with pytest.raises(_KilledError):
            predict(client, "all_kinds", data, folder, on_error=on_error, sync_seconds=0.0, part_bytes=10**9)
    for job in list(client._jobs.values()):
        job.cancel()
        job.wait(timeout_seconds=30)
    wait_until(lambda: not system.unfinished(), "no worker writes a part any more")


def resume(client: Client, data: Any, folder: Path, **more: Any) -> Summary:
    more = {"on_error": "fill", "resume": True, **more}
    return predict(client, "all_kinds", data, folder, **more)


def check(client: Client, data: Any, folder: Path, summary: Summary, on_error: Any = "fill") -> None:
    """All is as if nothing had happened."""
    file = folder.with_name(f"file{folder.suffix}")
    whole = predict(client, "all_kinds", data, file, on_error=on_error, in_parts=False)
    assert_same(folder, file)
    assert read_beside(folder)[1] == read_beside(file)[1]
    for name in ("rows", "predicted", "failed", "skipped", "written"):
        assert summary.ledger[name] == whole.ledger[name], name


@pytest.mark.parametrize("suffix", [".parquet", ".zarr"])
@pytest.mark.parametrize("on_error", ["skip", "fill"])
def test_parts_that_prove_what_they_are_count(
    system: System, client: Client, out: Path, data: np.ndarray, on_error: Any, suffix: str
) -> None:
    folder = out / f"set{suffix}"
    kill_producer(system, client, data, folder, on_error)
    summary = resume(client, data, folder, on_error=on_error)
    assert summary.ledger["resumed"] >= SEEN
    assert summary.ledger["chunks_sent"] <= (ROWS - SEEN) / CHUNK_ROWS + 1
    check(client, data, folder, summary, on_error)


@pytest.mark.parametrize("damage", ["a byte", "an end", "a beginning", "its rows", "nothing at all"])
def test_a_part_that_is_damaged_is_made_anew(
    system: System, client: Client, out: Path, data: np.ndarray, damage: str
) -> None:
    folder = out / "set.parquet"
    kill_producer(system, client, data, folder)
    (part,) = (out / ".set.parquet.part").rglob(f"{2 * CHUNK_ROWS}-*.part")
    whole = part.read_bytes()
    if damage == "its rows":  # another part by its name
        part.rename(part.with_name(part.name.replace(f"-{3 * CHUNK_ROWS}-", f"-{3 * CHUNK_ROWS - 1}-")))
    else:
        at = len(whole) // 2
        part.write_bytes(
            {
                "a byte": whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :],
                "an end": whole[:-1],
                "a beginning": whole[1:],
                "nothing at all": b"",
            }[damage]
        )
    summary = resume(client, data, folder)
    assert summary.ledger["resumed"] == 2 * CHUNK_ROWS
    check(client, data, folder, summary)


def test_parts_of_another_job_or_of_other_work_do_not_count(
    system: System, client: Client, out: Path, data: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = out / "set.parquet"
    with monkeypatch.context() as patch:
        note = FolderWriter.note_job
        patch.setattr(FolderWriter, "note_job", lambda self, job: note(self, job[::-1]))
        kill_producer(system, client, data, folder)
    summary = resume(client, data, folder)
    assert summary.ledger["resumed"] == CHUNK_ROWS
    check(client, data, folder, summary)


def test_what_was_left_before_changes_were_accepted_does_not_count(
    system: System, client: Client, out: Path, data: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither in the run that accepts them, nor in a later one, should a worker have been late."""
    folder = out / "set.parquet"
    kill_producer(system, client, data, folder)
    parts = {path: path.read_bytes() for path in (out / ".set.parquet.part").rglob("*.part")}

    class Stops(BaseException):
        pass

    def stops(*_: object) -> None:
        raise Stops

    with monkeypatch.context() as patch:
        patch.setattr("tests.split_writes.JournalHead", other_data)
        patch.setattr("tests.split_writes.predict_to_sink", stops)
        with pytest.raises(Stops):
            resume(client, data, folder, accept_changes=True)
        assert len(list((out / ".set.parquet.part").rglob("*.part"))) == 1
        for path, content in parts.items():  # late
            path.write_bytes(content)
    with monkeypatch.context() as patch:
        patch.setattr("tests.split_writes.JournalHead", other_data)
        summary = resume(client, data, folder)
    assert summary.ledger["resumed"] == CHUNK_ROWS
    check(client, data, folder, summary)


def other_data(source: Any, **more: Any) -> JournalHead:
    return JournalHead({**source, "modified": "later"}, **more)
