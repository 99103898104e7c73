"""One object as an output: made on this machine, put in its place in one step, and nothing of others overwritten."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from producer import Client
from producer.outputs.fetch_to_output import fetch_to_output
from producer.outputs.sidecar_files import read_beside
from producer.outputs.summary import PredictionFailedError
from producer.rows.part import Part
from producer.sinks import JournalHead, Sink, begin_again, check_output, is_there, is_unfinished, open_sink, output_path
from tasks.storage import objects
from tests.fault_proxy import FaultProxy, proxy_before
from tests.integration.test_object_outputs import _as_user, _open_uploads, fetched, names_beneath
from tests.manifests import write_manifest
from tests.object_stores import ObjectStore
from tests.sink_outputs import read_zarr
from tests.split_writes import STEPS, predict, rows_with, stepped
from tests.systems import System, serving
from worker_config.errors import ObjectError, ObjectExistsError, OutputError, OutputInUseError
from worker_config.object_urls import object_url

ROOT = "s3://rows/one"
HEAD = JournalHead(source={"name": "data"})
ROWS = 1_000
VALUES = np.random.default_rng(3).random((ROWS, 3))


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Workers that know of no store."""
    folder = tmp_path_factory.mktemp("o")
    (folder / "steps.py").write_text(STEPS)
    entries = stepped("all_kinds", "one", "bytes_of", "unwritable")
    entries["plain"] = {"path": "steps:one", "batch_rows": 64}
    with serving(folder, write_manifest(folder, entries)) as system:
        yield system


@pytest.fixture(autouse=True)
def store(object_store: ObjectStore) -> Iterator[ObjectStore]:
    with object_store.used_here():
        objects.put(object_url("s3://rows/there"), b"so that there is a bucket")
        yield object_store


@pytest.fixture(autouse=True)
def staging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The temporary folder, in which nothing is left but of outputs that can be continued."""
    (folder := tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def client(system: System) -> Iterator[Client]:
    with Client(system.url, settings=system.settings()) as client:
        yield client


@pytest.fixture
def out(request: pytest.FixtureRequest) -> str:
    return f"{ROOT}/{abs(hash(request.node.name))}"


def part_of(start: int, stop: int) -> Part:
    return Part(0, start, stop, VALUES[start:stop])


def written(url: str, stop: int = ROWS, **more: Any) -> Sink:
    """A sink with so many rows, not committed."""
    sink = open_sink(url, ROWS, more.pop("force", False), journal=HEAD, sync_seconds=0.0, **more)
    sink.write(part_of(sink.done_rows, stop))
    return sink


def content(url: str) -> np.ndarray:
    return np.load(io.BytesIO(objects.read_now(object_url(url)) or b""))


@pytest.mark.parametrize("on_error", ["skip", "fill"])
@pytest.mark.parametrize(
    ("model", "suffix"),
    [
        ("all_kinds", ".parquet"), ("all_kinds", ".feather"), ("all_kinds", ".jsonl"), ("one", ".npz"),
        ("one", ".npy"), ("one", ".csv"),
    ],
)  # fmt: skip
def test_each_format_is_the_file_to_the_byte(
    client: Client, staging: Path, out: str, tmp_path: Path, model: str, suffix: str, on_error: Any
) -> None:
    data = rows_with([0, 700, *range(768, 1024), 2_999], [1, 500])
    summary = predict(client, model, data, f"{out}/x{suffix}", on_error=on_error, in_parts=False)
    (folder := tmp_path / "file").mkdir()
    expected = predict(client, model, data, folder / f"x{suffix}", on_error=on_error, in_parts=False)
    assert summary.output == f"{out}/x{suffix}"
    assert summary.fill == expected.fill
    got = fetched(out, tmp_path / "fetched")
    assert sorted(one.name for one in got.iterdir()) == sorted(one.name for one in folder.iterdir())
    for name in (f"x{suffix}", f"x{suffix}.failed.npy"):
        if (folder / name).exists() and suffix != ".npz":
            assert (got / name).read_bytes() == (folder / name).read_bytes(), name
    if suffix == ".npz":
        arrays, wanted = np.load(got / "x.npz"), np.load(folder / "x.npz")
        assert arrays.files == wanted.files
        assert all(arrays[name].tobytes() == wanted[name].tobytes() for name in wanted.files)
    ledger, failures = read_beside(output_path(f"{out}/x{suffix}"))
    assert ledger.ledger["written"] == expected.ledger["written"]
    assert sum(one.stop - one.start for one in failures) == expected.ledger["failed"]
    assert list(staging.iterdir()) == []


def test_a_run_that_ended_early_is_continued_on_its_machine_alone(
    out: str, staging: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url = f"{out}/x.npy"
    written(url, 400).abort()
    assert is_unfinished(output_path(url))
    assert names_beneath(out) == [".x.npy.journal/00000"]
    with pytest.raises(OutputError, match="400 rows that an earlier run has saved beside it would be lost"):
        written(url)
    (elsewhere := tmp_path / "elsewhere").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(elsewhere))
    with pytest.raises(OutputError, match=r"its rows so far are on the machine where it began, and not in .*where"):
        written(url, resume=True)
    monkeypatch.setattr(tempfile, "tempdir", str(staging))
    with written(url, resume=True) as sink:
        assert sink.done_rows == 400
        sink.commit()
    np.testing.assert_array_equal(content(url), VALUES)
    assert names_beneath(out) == ["x.npy"]
    assert list(staging.iterdir()) == []


def test_what_another_run_has_left_here_is_not_continued(
    out: str, staging: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of two machines each has begun it, and the journal is of the other one's run."""
    url = f"{out}/x.npy"
    written(url, 400).abort()
    (elsewhere := tmp_path / "elsewhere").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(elsewhere))
    written(url, 600, force=True).abort()
    monkeypatch.setattr(tempfile, "tempdir", str(staging))
    with pytest.raises(OutputError, match="its rows so far are on the machine where it began"):
        written(url, resume=True)
    monkeypatch.setattr(tempfile, "tempdir", str(elsewhere))
    with written(url, resume=True) as sink:
        assert sink.done_rows == 600
        sink.commit()


def test_two_processes_of_a_machine_do_not_write_one_output(out: str) -> None:
    url = f"{out}/x.npy"
    with written(url, 400) as sink:
        for more in ({"resume": True}, {"force": True}):
            with pytest.raises(OutputInUseError, match="another process is writing it"):
                written(url, **more)
        sink.write(part_of(400, ROWS))
        sink.commit()
    np.testing.assert_array_equal(content(url), VALUES)


def test_of_two_machines_the_first_one_ends(
    out: str, staging: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url = f"{out}/x.npy"
    with written(url, 400) as first:
        (elsewhere := tmp_path / "elsewhere").mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(elsewhere))
        with written(url, force=True) as second:
            with pytest.raises(OutputError, match="another process writes it by now"):
                first.write(part_of(400, ROWS))
            second.commit()
    np.testing.assert_array_equal(content(url), VALUES)


def test_what_came_meanwhile_is_not_overwritten_without_being_asked(out: str) -> None:
    url = f"{out}/x.npy"
    objects.put(object_url(url), b"of somebody else")
    with pytest.raises(OutputError, match="exists; use --force to replace it"):
        check_output(url, False)
    objects.delete([object_url(url)])
    with written(url, force=True) as sink:
        objects.put(object_url(url), b"of somebody else")
        with pytest.raises(OutputError, match="another object has come to its place meanwhile; replace that with"):
            sink.commit()
    assert objects.read_now(object_url(url)) == b"of somebody else"
    assert names_beneath(out) == [".x.npy.journal/00000", "x.npy"]
    with pytest.raises(OutputError, match="exists; use --force to replace it"):
        written(url, resume=True)
    with open_sink(url, ROWS, True, journal=HEAD, resume=True) as sink:
        assert sink.done_rows == ROWS
        sink.commit()
    np.testing.assert_array_equal(content(url), VALUES)
    assert names_beneath(out) == ["x.npy"]


def test_marks_of_an_output_that_came_meanwhile_stay_too(out: str) -> None:
    url = f"{out}/x.npy"
    head = JournalHead(source={"name": "data"}, on_error="fill")
    with open_sink(url, ROWS, False, journal=head) as sink:
        sink.write(part_of(0, ROWS))
        objects.put(object_url(url), b"of somebody else")
        objects.put(object_url(f"{url}.failed.npy"), b"its marks")
        with pytest.raises(OutputError, match="another object has come to its place"):
            sink.commit()
    assert objects.read_now(object_url(f"{url}.failed.npy")) == b"its marks"


def test_one_that_begins_anew_does_not_replace_what_came_meanwhile(out: str) -> None:
    url = f"{out}/x.npy"
    sink = written(url, 400)
    objects.put(object_url(url), b"of somebody else")
    with pytest.raises(OutputError, match="exists; use --force to replace it"):
        begin_again(sink, ROWS, HEAD)
    assert names_beneath(out) == ["x.npy"]


def test_an_old_object_stays_until_the_new_one_is_whole(out: str) -> None:
    url = f"{out}/x.npy"
    objects.put(object_url(url), b"old")
    with written(url, force=True) as sink:
        assert objects.read_now(object_url(url)) == b"old"
        sink.commit()
    np.testing.assert_array_equal(content(url), VALUES)


@contextmanager
def _through(store: ObjectStore, proxy: FaultProxy) -> Iterator[None]:
    with patch.dict(os.environ, store.environment(endpoint=proxy.endpoint)), patch("tasks.storage.stores._stores", {}):
        yield


@pytest.mark.parametrize("force", [False, True])
def test_a_store_that_throttles_or_fails_in_the_middle_costs_time_alone(
    store: ObjectStore, out: str, force: bool, caplog: pytest.LogCaptureFixture
) -> None:
    url, rows = f"{out}/x.npy", np.random.default_rng(1).random((3_000, 1_000))  # 24 MB, in three parts
    if force:
        objects.put(object_url(url), b"old")
    with proxy_before(store.port) as proxy, _through(store, proxy):
        with open_sink(url, len(rows), force, journal=HEAD) as sink:
            sink.write(Part(0, 0, len(rows), rows))
            proxy.refused.update({"partNumber=2": (6, 500), "PUT /rows/one": (3, 503), "POST /rows/one": (5, 503)})
            sink.commit()
        assert {count for count, _ in proxy.refused.values()} == {0}
    assert "the store is busy or in trouble (HTTP 50" in caplog.text
    np.testing.assert_array_equal(content(url), rows)
    assert names_beneath(out) == ["x.npy"]
    assert _open_uploads(store) == []


def test_an_upload_that_fails_for_good_is_made_by_resume(out: str, store: ObjectStore) -> None:
    url = f"{out}/x.npy"
    with proxy_before(store.port) as proxy, _through(store, proxy):
        with written(url) as sink:
            proxy.refused["x.npy.part/"] = (10**6, 403)
            with pytest.raises(OutputError, match="may not be written with this machine's credentials") as raised:
                sink.commit()
        assert "key-of" not in str(raised.value)
        assert not is_there(output_path(url))
        proxy.refused.clear()
        with open_sink(url, ROWS, False, journal=HEAD, resume=True) as sink:
            assert sink.done_rows == ROWS
            sink.commit()
    np.testing.assert_array_equal(content(url), VALUES)


def test_the_answer_to_an_upload_may_be_lost(out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    put_new, url = objects.put_new, f"{out}/x.npy"

    def tries_again(*args: Any) -> None:
        put_new(*args)
        put_new(*args)

    monkeypatch.setattr(objects, "put_new", tries_again)
    with written(url) as sink:
        sink.commit()
    assert names_beneath(out) == ["x.npy"]


def test_a_file_is_no_new_object_where_there_is_one(out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (file := tmp_path / "file").write_bytes(b"new")
    url, beside = object_url(f"{out}/x"), object_url(f"{out}/y")
    for most in (2**30, 0):
        monkeypatch.setattr(objects, "_MOST_COPIED_BYTES", most)
        objects.put_new(url, file, beside)
        assert objects.read_now(url) == b"new"
        objects.put(url, b"other")
        with pytest.raises(ObjectExistsError):
            objects.put_new(url, file, beside)
        assert objects.read_now(url) == b"other"
        objects.delete([url, beside])


def test_rights_and_names_are_told_before_the_work(store: ObjectStore, out: str, staging: Path) -> None:
    with _as_user(store, "reader"), pytest.raises(OutputError, match="may not be written with"):
        open_sink(f"{out}/x.npy", ROWS, False, journal=HEAD)
    with _as_user(store, "stranger"), pytest.raises((OutputError, ObjectError), match="may not be"):
        check_output(f"{out}/x.npy", False)
    with pytest.raises(OutputError, match="no bucket nobucket; check the URL"):
        check_output("s3://nobucket/x.npy", False)
    objects.put(object_url(f"{out}/x.npy/part-00000.npy"), b"")
    with pytest.raises(OutputError, match="is a folder of objects; end the name with a /"):
        check_output(f"{out}/x.npy", True)
    assert list(staging.iterdir()) == []


def test_the_folder_of_another_user_is_not_taken(out: str, staging: Path) -> None:
    url = f"{out}/x.npy"
    written(url, 400).abort()
    (folder,) = staging.iterdir()
    folder.rename(staging / "moved")
    folder.symlink_to(staging / "moved")
    with pytest.raises(OutputError, match="is not a folder of this user; remove it, or set TMPDIR"):
        written(url, resume=True)


def test_without_a_journal_nothing_is_left(out: str, staging: Path) -> None:
    for commits in (False, True):
        with open_sink(f"{out}/x.npy", ROWS, False) as sink:
            sink.write(part_of(0, ROWS))
            if commits:
                sink.commit()
        assert names_beneath(out) == ["x.npy"] * commits
        assert list(staging.iterdir()) == []


def test_a_disk_that_is_full_is_named(out: str, staging: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(total=9, free=1))
    told = pytest.raises(OutputError, match=rf"needs 24 MiB, the disk of {staging}.* has 0 MiB free; make room")
    with open_sink(f"{out}/x.npy", 2**20, False, journal=HEAD) as sink, told:
        sink.write(part_of(0, ROWS))
    assert list(staging.iterdir()) == []


def test_a_job_whose_rows_the_format_cannot_hold_names_the_url(client: Client, out: str) -> None:
    with pytest.raises(PredictionFailedError, match=rf"^{out}/x.parquet: ") as raised:
        predict(client, "unwritable", rows_with(), f"{out}/x.parquet", in_parts=False)
    assert "celeriac-staging" not in str(raised.value)


def test_a_long_upload_tells_how_far_it_is(
    out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (file := tmp_path / "file").write_bytes(os.urandom(20 * 2**20 + 1))
    monkeypatch.setattr("tasks.storage.told.STORE_TELL_SECONDS", 0.0)
    objects.put(object_url(f"{out}/x"), file)
    assert f"{out}/x: MiB sent: 20 of 21 so far, in " in caplog.text
    assert objects.read_now(object_url(f"{out}/x")) == file.read_bytes()


@pytest.mark.parametrize("name", ["x.npy", "x.zarr/"])
def test_what_a_detached_job_has_left_is_fetched_to_a_url(client: Client, out: str, tmp_path: Path, name: str) -> None:
    data = rows_with()
    predict(client, "plain", data, tmp_path / "x.npy", in_parts=False)
    left = client.attach(client.submit("plain", data, detach=True))
    is_folder = name.endswith("/")
    summary = fetch_to_output(left, output_path(f"{out}/{name}"), False, True, in_parts=is_folder)
    assert summary.output == f"{out}/{name}".rstrip("/")
    got = read_zarr(fetched(out, tmp_path / "got") / "x.zarr")["output"] if is_folder else content(f"{out}/{name}")
    np.testing.assert_array_equal(got, np.load(tmp_path / "x.npy"))
    assert not [one for one in names_beneath(out) if one.startswith(".")]
