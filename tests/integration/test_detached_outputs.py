"""Outputs of detached jobs behind URLs, and fetches that are killed: as those of attached jobs, whatever happens."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest

from producer import Client
from producer.cli.detach import leave_with_output
from producer.cli.fetch import complete_output
from producer.cli.request import PredictRequest, RunOptions
from producer.detached.detached_job import DetachedJob
from producer.outputs.sidecar_files import read_beside
from producer.outputs.summary import PredictionFailedError
from producer.rows.part import Part
from producer.sinks import Sink, output_path
from producer.sinks.folder import FolderWriter
from producer.sinks.journal import Journal
from tasks.protocol import keys
from tasks.protocol.messages import OnError
from tasks.protocol.seal import Sealer
from tasks.storage import objects
from tasks.transport.publish_answer import push_answer
from tests.integration.test_object_outputs import fetched, names_beneath
from tests.manifests import write_manifest
from tests.object_stores import ObjectStore
from tests.output_sets import assert_same
from tests.split_writes import CHUNK_ROWS, ROWS, STEPS, predict, rows_with
from tests.systems import System, serving
from tests.waiting import wait_until
from worker_config.errors import JobCancelledError, OutputError
from worker_config.object_urls import object_url

ROOT = "s3://rows/detached"
RAISING = [0, 700, *range(768, 1024), 2_999]
KILLER = 3


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, object_store: ObjectStore) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("d")
    (folder / "out").mkdir()
    (folder / "steps.py").write_text(
        f"{STEPS}\n\ndef kill(rows):\n    import os\n    if (rows[:, 0] == {KILLER}).any():\n        os._exit(9)\n"
        "    return meet(rows)\n\n\ndef wide(rows):\n    return rows['x'] * 2\n"
    )
    entries: dict[str, Any] = {
        name: {"path": f"steps:{name}", "batch_rows": 64, "preprocess": "steps:kill"}
        for name in ("all_kinds", "one", "bytes_of")
    }
    entries["wide"] = {"path": "steps:wide", "batch_rows": 64, "columns": {"x": ["x"]}}
    environ = {**object_store.environment(), "CELERIAC_OUTPUT_ROOTS": f"{ROOT}:{folder / 'out'}"}
    with serving(folder, write_manifest(folder, entries), environ=environ) as system:
        yield system


@pytest.fixture(autouse=True)
def store(object_store: ObjectStore) -> Iterator[ObjectStore]:
    with object_store.used_here():
        objects.put(object_url("s3://rows/there"), b"so that there is a bucket")
        yield object_store


@pytest.fixture
def client(system: System) -> Iterator[Client]:
    with Client(system.url, settings=system.settings()) as client:
        yield client


@pytest.fixture
def place(request: pytest.FixtureRequest) -> str:
    return f"{ROOT}/{re.sub(r'[^a-z0-9.]+', '-', request.node.name)}"


def leave(
    client: Client,
    folder: Path,
    model: str,
    data: np.ndarray | Path,
    output: Path | str,
    capsys: Any,
    on_error: OnError,
    *,
    force: bool = False,
    max_failed: str | None = None,
) -> DetachedJob:
    """Leave a job as the command does."""
    if isinstance(data, np.ndarray):
        np.save(folder / "data.npy", data)
    path = data if isinstance(data, Path) else folder / "data.npy"
    run = RunOptions(chunk_rows=CHUNK_ROWS, quiet=True, part_mib=1, max_failed=max_failed)
    request = PredictRequest(
        [model], path, {}, folder / "none", None, client.broker_url, 60.0, on_error, run, as_json=False
    )
    leave_with_output(request, output_path(output), None, force=force)
    return client.attach(capsys.readouterr().out.strip())


def complete(job: DetachedJob) -> Any:
    assert job.output
    return complete_output(job, job.output, quiet=True)


@pytest.mark.parametrize(
    ("model", "suffix"), [("all_kinds", ".parquet"), ("one", ".npy"), ("bytes_of", ".feather"), ("all_kinds", ".zarr")]
)
def test_behind_a_url_all_is_as_in_one_file(
    client: Client, place: str, tmp_path: Path, capsys: Any, model: str, suffix: str
) -> None:
    data = rows_with(RAISING)
    job = leave(client, tmp_path, model, data, f"{place}/set{suffix}", capsys, "skip")
    summary = complete(job)
    file = tmp_path / f"file{suffix}"
    whole = predict(client, model, data, file, on_error="skip", in_parts=False)
    assert_same(fetched(place, tmp_path / "fetched") / f"set{suffix}", file)
    assert summary.output == f"{place}/set{suffix}"
    assert summary.ledger["failed"] == whole.ledger["failed"] == len(RAISING)
    beside = {name for name in names_beneath(place) if "/" not in name}
    assert beside == {f"set{suffix}.{name}" for name in ("manifest.json", "ledger.json", "failures.jsonl")}
    assert complete(job).done_before


class _KilledError(BaseException):
    """In the place of a kill."""


@pytest.mark.parametrize("behind_url", [False, True])
def test_a_fetch_that_is_killed_between_two_files_is_continued(
    client: Client,
    place: str,
    out: Path,
    tmp_path: Path,
    capsys: Any,
    monkeypatch: pytest.MonkeyPatch,
    behind_url: bool,
) -> None:
    data = rows_with(RAISING)
    output: Any = f"{place}/set.parquet" if behind_url else out / "set.parquet"
    job = leave(client, tmp_path, "all_kinds", data, output, capsys, "fill")
    write = Sink.write
    written: list[int] = []

    def dies(sink: Sink, part: Part) -> None:
        folder = sink.folder
        assert folder
        folder.part_bytes, sink._sync_seconds, sink._sync_again_seconds = 40_000, 0.0, 0.0
        written.append(part.start)
        if part.start >= 2_000 and len(written) > 2 and not again:
            wait_until(lambda: folder.sync() or folder.files, "a file is merged")
            sink._sync()
            raise _KilledError
        write(sink, part)

    def abandons(sink: Sink) -> None:
        sink._ended = True
        if sink.folder:
            sink.folder.close()
        if sink._journal:
            sink._journal.close()

    again = False
    monkeypatch.setattr(Sink, "write", dies)
    with monkeypatch.context() as patch:
        patch.setattr(Sink, "abort", abandons)
        with pytest.raises(_KilledError):
            complete(job)
    again, written[:] = True, []
    summary = complete(job)
    assert written[0] >= 1_000, "what was noted is not written again"
    assert written == list(range(written[0], ROWS, CHUNK_ROWS))
    monkeypatch.undo()
    predict(client, "all_kinds", data, tmp_path / "file.parquet", on_error="fill", in_parts=False)
    got = fetched(place, tmp_path / "fetched") / "set.parquet" if behind_url else out / "set.parquet"
    assert_same(got, tmp_path / "file.parquet")
    assert summary.ledger["written"] == ROWS - len(RAISING)
    if not behind_url:
        assert read_beside(out / "set.parquet")[1] == read_beside(tmp_path / "file.parquet")[1]


def test_rows_that_kill_children_cost_themselves_alone(client: Client, out: Path, tmp_path: Path, capsys: Any) -> None:
    data = rows_with(RAISING)
    data[[400, 1_500], 0] = KILLER
    job = leave(client, tmp_path, "one", data, out / "set.parquet", capsys, "fill")
    summary = complete(job)
    assert summary.ledger["failed"] == len(RAISING) + 2
    predict(client, "one", data, tmp_path / "file.parquet", on_error="fill", in_parts=False)
    assert_same(out / "set.parquet", tmp_path / "file.parquet")


def test_rows_that_became_void_after_they_were_written_are_written_anew(
    client: Client,
    out: Path,
    tmp_path: Path,
    capsys: Any,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As a journal names other files than the answers do."""
    data = rows_with()
    job = leave(client, tmp_path, "one", data, out / "set.parquet", capsys, "raise")
    has = FolderWriter.has
    asked: list[int] = []

    def dies(*_: object) -> None:
        raise _KilledError

    with monkeypatch.context() as patch:
        patch.setattr(Sink, "commit", dies)
        with pytest.raises(_KilledError):
            complete(job)

    def one_is_void(folder: FolderWriter, part: Part) -> bool:
        asked.append(part.start)
        return has(folder, part) and len(asked) != 3

    monkeypatch.setattr(FolderWriter, "has", one_is_void)
    complete(job)
    assert len(asked) == 3
    assert "predicted again" in caplog.text
    predict(client, "one", data, tmp_path / "file.parquet", in_parts=False)
    assert_same(out / "set.parquet", tmp_path / "file.parquet")


def test_what_a_cancelled_job_has_left_in_a_store_goes(client: Client, place: str, tmp_path: Path, capsys: Any) -> None:
    job = leave(client, tmp_path, "one", rows_with(), f"{place}/set.parquet", capsys, "raise")
    job.wait()
    assert names_beneath(place)
    job.cancel()
    assert names_beneath(place) == []
    with pytest.raises(JobCancelledError):
        complete(job)


def test_an_answer_that_is_pushed_again_as_its_reply_was_lost_is_taken_still(
    system: System, client: Client, out: Path, tmp_path: Path, capsys: Any
) -> None:
    """Else the child would remove the file that the answer names; also that of the last chunk, which ends the job."""
    job = leave(client, tmp_path, "one", rows_with(), out / "set.parquet", capsys, "raise")
    job.wait()
    with system.admin() as server:
        last = -(-ROWS // CHUNK_ROWS) - 1
        answer = job._answer(last, cast("bytes", server.hget(keys.answers(job.id), str(last))))
        sealer = Sealer(system.settings().signing_key)
        assert push_answer(server, answer, 60, sealer).is_taken
        assert not push_answer(server, msgspec.structs.replace(answer, slot="another"), 60, sealer).is_taken
    complete(job)


def test_without_workers_the_files_are_made_here_and_replace_another_output(
    client: Client, out: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete(leave(client, tmp_path, "bytes_of", rows_with(rows=100), out / "set.parquet", capsys, "raise"))
    before = (out / "set.parquet" / "part-00000.parquet").read_bytes()
    data = rows_with()
    with pytest.raises(OutputError, match="exists"):
        leave(client, tmp_path, "one", data, out / "set.parquet", capsys, "raise")
    job = leave(client, tmp_path, "one", data, out / "set.parquet", capsys, "raise", force=True)
    job.wait()
    assert (out / "set.parquet" / "part-00000.parquet").read_bytes() == before
    monkeypatch.setattr(DetachedJob, "workers_now", lambda _: None)
    complete(job)
    predict(client, "one", data, tmp_path / "file.parquet", in_parts=False)
    assert_same(out / "set.parquet", tmp_path / "file.parquet")


def test_more_rows_fail_than_may(client: Client, out: Path, tmp_path: Path, capsys: Any) -> None:
    job = leave(client, tmp_path, "one", rows_with(RAISING), out / "set.parquet", capsys, "skip", max_failed="1%")
    with pytest.raises(PredictionFailedError, match="1 % of all may"):
        complete(job)


@pytest.mark.parametrize("behind_url", [False, True])
def test_a_fetch_that_is_killed_when_all_is_in_place_was_one(
    client: Client,
    place: str,
    out: Path,
    tmp_path: Path,
    capsys: Any,
    monkeypatch: pytest.MonkeyPatch,
    behind_url: bool,
) -> None:
    output: Any = f"{place}/set.npy" if behind_url else out / "set.npy"
    job = leave(client, tmp_path, "one", rows_with(), output, capsys, "raise")

    def dies(journal: Journal) -> None:
        journal.close()
        raise _KilledError

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "remove", dies)
        with pytest.raises(_KilledError):
            complete(job)
    summary = complete(job)
    assert summary.done_before
    assert summary.ledger["written"] == ROWS
    hidden = [name for name in names_beneath(place) if name.startswith(".")] if behind_url else [*out.glob(".*")]
    assert hidden == []


def test_rows_that_nobody_has_counted(client: Client, out: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "data.jsonl").write_text("".join(f'{{"x": {row}.5}}\n' for row in range(1_000)))
    job = leave(client, tmp_path, "wide", tmp_path / "data.jsonl", out / "set.parquet", capsys, "raise")
    summary = complete(job)
    assert summary.ledger["written"] == 1_000
    table = pq.read_table(out / "set.parquet")
    np.testing.assert_array_equal(table["output"].to_numpy(), np.arange(1_000) * 2 + 1)
