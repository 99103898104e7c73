"""Outputs that workers write behind URLs: the same as one file, whatever the store, a job or another producer does."""

from __future__ import annotations

import http.client
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import polars as pl
import pyarrow.dataset as ds
import pytest
from pyarrow import fs

from producer import Client
from producer.outputs.summary import PredictionFailedError
from producer.rows.part import Part
from producer.sinks import JournalHead, Sink, begin_again, check_output, open_sink
from producer.sinks.journal_files import ObjectJournalFile
from producer.sinks.output_place import ObjectPlace
from tasks.storage import objects
from tasks.transport.output_objects import WANTED
from tests.fault_proxy import FaultProxy, proxy_before
from tests.object_stores import ObjectStore
from tests.output_sets import assert_same, begin_writing
from tests.split_writes import CHUNK_ROWS, predict, rows_with, stepped, stops, write_part, writing
from tests.systems import System
from worker_config.errors import OutputError, UsageError
from worker_config.object_urls import object_url

ROOT = "s3://rows/outputs"


@pytest.fixture(scope="module")
def proxy(object_store: ObjectStore) -> Iterator[FaultProxy]:
    """Between the workers and the store."""
    with proxy_before(object_store.port) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, object_store: ObjectStore, proxy: FaultProxy) -> Iterator[System]:
    environ = {**object_store.environment(endpoint=proxy.endpoint), "CELERIAC_OUTPUT_ROOTS": ROOT}
    models = stepped("all_kinds", "one", "bytes_of", "unwritable")
    with writing(tmp_path_factory.mktemp("o"), models, environ=environ) as system:
        yield system


@pytest.fixture(autouse=True)
def store(object_store: ObjectStore, proxy: FaultProxy) -> Iterator[ObjectStore]:
    proxy.refused.clear()
    with object_store.used_here():
        objects.put(object_url("s3://rows/there"), b"so that there is a bucket")
        yield object_store


@pytest.fixture
def out(request: pytest.FixtureRequest) -> str:
    return f"{ROOT}/{re.sub(r'[^a-z0-9.]+', '-', request.node.name)}"


def names_beneath(prefix: str) -> list[str]:
    """All keys, without the prefix."""
    return [str(url).removeprefix(f"{prefix}/") for url, _ in objects.list_objects(object_url(prefix))]


def fetched(prefix: str, into: Path) -> Path:
    """A folder that has all objects beneath a prefix, what is beside outputs too."""
    for url, stamp in objects.list_objects(object_url(prefix)):
        path = into / str(url).removeprefix(f"{prefix}/")
        path.parent.mkdir(parents=True, exist_ok=True)
        objects.download(url, stamp, path)
    return into


def assert_same_as_file(out: str, name: str, file: Path) -> None:
    assert_same(fetched(out, file.parent / "fetched") / name, file)


@pytest.mark.parametrize(
    ("model", "suffix"),
    [("all_kinds", ".parquet"), ("all_kinds", ".jsonl"), ("one", ".npy"), ("one", ".csv"), ("bytes_of", ".feather")],
)
def test_each_format_is_as_in_one_file(client: Client, out: str, tmp_path: Path, model: str, suffix: str) -> None:
    raising = [0, 700, *range(768, 1024), 2_999]
    data, on_error = rows_with(raising, [1, 500]), "skip"
    summary = predict(client, model, data, f"{out}/set{suffix}", on_error=on_error)
    predict(client, model, data, tmp_path / f"file{suffix}", on_error=on_error, in_parts=False)
    assert_same_as_file(out, f"set{suffix}", tmp_path / f"file{suffix}")
    assert summary.output == f"{out}/set{suffix}"
    beside = {name for name in names_beneath(out) if "/" not in name}
    assert beside == {f"set{suffix}.{name}" for name in ("manifest.json", "ledger.json", "failures.jsonl")}


def test_predictions_of_objects_go_to_objects_and_are_continued(
    client: Client, out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "rows.npy", rows_with())
    objects.put(object_url("s3://rows/in/rows.npy"), (tmp_path / "rows.npy").read_bytes())
    with monkeypatch.context() as patch:
        patch.setattr(Sink, "write", lambda sink, part: write_part(sink, part) if part.index < 3 else _interrupted())
        with pytest.raises(KeyboardInterrupt, match="continue with resume=True"):
            client.predict_to(f"{out}/set.parquet/", "one", "s3://rows/in/rows.npy", chunk_rows=CHUNK_ROWS)
    summary = client.predict_to(f"{out}/set.parquet/", "one", "s3://rows/in/rows.npy", resume=True)
    assert summary.output == f"{out}/set.parquet"
    assert summary.ledger_path == f"{out}/set.parquet.ledger.json"
    assert summary.ledger["resumed"] >= 3 * CHUNK_ROWS
    client.predict_to(tmp_path / "file.parquet", "one", tmp_path / "rows.npy")
    assert_same_as_file(out, "set.parquet", tmp_path / "file.parquet")


def _interrupted() -> None:
    raise KeyboardInterrupt


def test_readers_of_stores_find_all_rows_in_order(client: Client, store: ObjectStore, out: str) -> None:
    data = rows_with()
    predict(client, "one", data, f"{out}/set.parquet")
    there = ds.dataset(f"{out}/set.parquet".removeprefix("s3://"), filesystem=_arrow_store(store)).to_table()
    options = {
        "aws_access_key_id": "key-of-all",
        "aws_secret_access_key": "secret-of-all",
        "aws_region": "us-east-1",
        "aws_endpoint_url": store.endpoint,
        "aws_allow_http": "true",
    }
    frame = pl.scan_parquet(f"{out}/set.parquet/*.parquet", storage_options=options).collect()
    for numbers, values in (
        (there["row"].to_numpy(), there.column(1).to_pylist()),
        (frame["row"].to_numpy(), frame[frame.columns[1]].to_list()),
    ):
        np.testing.assert_array_equal(numbers, np.arange(len(data)))
        np.testing.assert_array_equal(np.array(values, np.float32), data[:, 1:4])


def _arrow_store(store: ObjectStore) -> fs.S3FileSystem:
    endpoint = store.endpoint.removeprefix("http://")
    keys = {"access_key": "key-of-all", "secret_key": "secret-of-all", "region": "us-east-1"}
    return fs.S3FileSystem(endpoint_override=endpoint, scheme="http", **keys)


def _stop(client: Client, data: np.ndarray, output: str, **more: Any) -> None:
    with patch.object(Sink, "write", stops), pytest.raises(PredictionFailedError, match="continue with --resume"):
        predict(client, "all_kinds", data, output, sync_seconds=0.0, **more)


def test_a_run_that_was_stopped_is_continued_from_anywhere(client: Client, out: str, tmp_path: Path) -> None:
    data, output = rows_with(), f"{out}/set.parquet"
    predict(client, "all_kinds", data, tmp_path / "file.parquet", in_parts=False)
    _stop(client, data, output)
    assert names_beneath(f"{out}/.set.parquet.journal") == ["00000"]
    assert names_beneath(output) == [f"part-{number:05d}.parquet" for number in range(len(names_beneath(output)))]
    with pytest.raises(OutputError, match="continue it with --resume, or begin again with --force"):
        predict(client, "all_kinds", data, output)
    summary = predict(client, "all_kinds", data, output, resume=True)
    assert summary.ledger["resumed"] > 1_000
    assert_same_as_file(out, "set.parquet", tmp_path / "file.parquet")


@contextmanager
def _killed_at(step: str) -> Iterator[None]:
    """The run of the block gets no further than to this step of naming files."""
    with (
        patch.object(ObjectPlace, step, side_effect=OutputError("killed")),
        pytest.raises(PredictionFailedError, match="killed"),
    ):
        yield


def test_one_that_was_killed_as_a_file_got_its_name_is_continued(client: Client, out: str, tmp_path: Path) -> None:
    """Copied, and what it was copied from is still there."""
    data, output = rows_with(), f"{out}/set.parquet"
    predict(client, "all_kinds", data, tmp_path / "file.parquet", in_parts=False)
    with _killed_at("end_names"):
        predict(client, "all_kinds", data, output, sync_seconds=0.0)
    assert names_beneath(output)
    assert any(name.endswith(".parquet") for name in names_beneath(f"{out}/.set.parquet.part"))
    predict(client, "all_kinds", data, output, resume=True)
    assert_same_as_file(out, "set.parquet", tmp_path / "file.parquet")


@pytest.mark.parametrize("killed_at", ["remove_named", "name", "end_names"])
def test_one_that_was_killed_as_it_replaced_an_output_is_continued(
    client: Client, out: str, tmp_path: Path, killed_at: str
) -> None:
    data, output = rows_with([2_900]), f"{out}/set.parquet"
    predict(client, "all_kinds", rows_with(), output)
    before = fetched(output, tmp_path / "before")
    predict(client, "all_kinds", data, tmp_path / "file.parquet", in_parts=False, on_error="skip")
    with _killed_at(killed_at):
        predict(client, "all_kinds", data, output, on_error="skip", force=True)
    if killed_at == "remove_named":
        after = fetched(output, tmp_path / "after")
        assert {one.name: one.read_bytes() for one in before.iterdir()} == {
            one.name: one.read_bytes() for one in after.iterdir()
        }
    predict(client, "all_kinds", data, output, on_error="skip", resume=True)
    assert_same_as_file(out, "set.parquet", tmp_path / "file.parquet")


def test_of_two_that_go_on_the_first_one_ends(client: Client, out: str, tmp_path: Path) -> None:
    data, output = rows_with(), f"{out}/set.parquet"
    predict(client, "all_kinds", data, tmp_path / "file.parquet", in_parts=False)
    resumed = []

    def goes_on_twice(sink: Sink, part: Part) -> None:
        write_part(sink, part)
        if part.stop > 1_000 and not resumed:
            resumed.append(0)
            resumed[0] = predict(client, "all_kinds", data, output, resume=True).ledger["resumed"]

    ends = pytest.raises(PredictionFailedError, match="another process writes it by now")
    with patch.object(Sink, "write", goes_on_twice), ends:
        predict(client, "all_kinds", data, output, sync_seconds=0.0)
    assert resumed[0]
    assert_same_as_file(out, "set.parquet", tmp_path / "file.parquet")


def test_of_two_that_begin_the_second_one_ends(client: Client, out: str) -> None:
    head = JournalHead(source={"name": "data"}, models=client.digests(["one"]))
    with open_sink(f"{out}/set.parquet", 10, False, journal=head, in_parts=True):
        # As if it had looked before the first one wrote.
        ends = pytest.raises(OutputError, match="another process writes it by now")
        with patch.object(ObjectJournalFile, "read", return_value=b""), ends:
            open_sink(f"{out}/set.parquet", 10, False, journal=head, in_parts=True)
        assert [name for name in names_beneath(out) if not name.endswith(WANTED)] == [".set.parquet.journal/00000"]
    assert names_beneath(out) == []


def test_one_that_begins_anew_keeps_the_place_to_which_workers_write_already(client: Client, out: str) -> None:
    head = JournalHead(source={"name": "data"}, models=client.digests(["one"]))
    sink = open_sink(f"{out}/set.parquet", 10, False, journal=head, in_parts=True)
    assert sink.folder
    objects.put(object_url(f"{sink.folder.folder}/0-1-00.part"), b"of a worker")
    again = begin_again(sink, 10, head)
    assert again.folder
    assert again.folder.folder == sink.folder.folder
    left = f".set.parquet.part/{again.folder.token}/0-1-00.part"
    assert names_beneath(out) == [".set.parquet.journal/00000", left, left.replace("0-1-00.part", WANTED)]
    again.discard()
    assert names_beneath(out) == []


def test_a_line_of_a_journal_counts_though_the_answer_to_it_was_lost(out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    put = objects.put

    def tries_again(*args: Any, **more: Any) -> objects.ObjectStamp:
        put(*args, **more)
        return put(*args, **more)

    monkeypatch.setattr("producer.sinks.journal_files._OBJECT_BYTES", 10)
    monkeypatch.setattr(objects, "put", tries_again)
    output, path = object_url(f"{out}/set.npy"), object_url(f"{out}/journal")
    file = ObjectJournalFile(output, path)
    lines = [f"line {number}\n".encode() for number in range(6)]
    for line in lines:
        file.append(line)
    assert names_beneath(str(path)) == ["00000", "00001", "00002"]
    assert ObjectJournalFile(output, path).read() == b"".join(lines)


def test_a_long_journal_is_many_objects(
    client: Client, out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("producer.sinks.journal_files._OBJECT_BYTES", 500)
    data, output = rows_with(), f"{out}/set.parquet"
    predict(client, "all_kinds", data, tmp_path / "file.parquet", in_parts=False)
    with monkeypatch.context() as slow:
        slow.setattr("producer.sinks.sink.LEAST_SYNC_SECONDS", 0.0)
        slow.setattr("producer.sinks.sink.SYNC_SHARE", 1e9)
        _stop(client, data, output)
    assert len(names_beneath(f"{out}/.set.parquet.journal")) > 2
    assert predict(client, "all_kinds", data, output, resume=True).ledger["resumed"] > 1_000
    assert_same_as_file(out, "set.parquet", tmp_path / "file.parquet")


def test_a_store_that_throttles_or_fails_costs_time_alone(
    client: Client, proxy: FaultProxy, out: str, tmp_path: Path
) -> None:
    data, output = rows_with(), f"{out}/set.parquet"
    predict(client, "all_kinds", data, tmp_path / "file.parquet", in_parts=False)
    proxy.refused.update({"PUT /rows/outputs": (12, 503), "GET /rows/outputs": (6, 500)})
    predict(client, "all_kinds", data, output)
    assert {count for count, _ in proxy.refused.values()} == {0}
    assert_same_as_file(out, "set.parquet", tmp_path / "file.parquet")


def test_a_merged_file_that_goes_in_many_parts_is_sent_whole_or_again(
    client: Client, proxy: FaultProxy, store: ObjectStore, out: str, tmp_path: Path
) -> None:
    data = np.random.default_rng(1).random((30_000, 200)).astype(np.float32)
    data[:, 0] = 0
    predict(client, "all_kinds", data, tmp_path / "file.parquet", in_parts=False)
    proxy.refused["partNumber=2"] = (4, 500)
    predict(client, "all_kinds", data, f"{out}/set.parquet", part_bytes=2**30)
    assert proxy.refused["partNumber=2"] == (0, 500)
    assert_same_as_file(out, "set.parquet", tmp_path / "file.parquet")
    assert _open_uploads(store) == []


def _open_uploads(store: ObjectStore) -> list[str]:
    """Uploads that nobody has ended."""
    connection = http.client.HTTPConnection("127.0.0.1", store.web_port)
    connection.request("GET", "/buckets/rows/.uploads/", headers={"Accept": "application/json"})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    assert answer.status == 200, "there have been some"
    return [entry["FullPath"] for entry in json.loads(body)["Entries"] or []]


def test_a_store_that_refuses_workers_ends_the_job_in_one_line(client: Client, proxy: FaultProxy, out: str) -> None:
    proxy.refused["PUT /rows/outputs"] = (10**6, 403)
    with pytest.raises(PredictionFailedError) as raised:
        predict(client, "one", rows_with(), f"{out}/set.parquet")
    told = str(raised.value)
    assert f"{out}/.set.parquet.part/" in told
    assert "may not be written with this machine's credentials (HTTP 403" in told
    assert "key-of" not in told
    assert "secret" not in told
    assert "\n" not in told
    proxy.refused.clear()
    predict(client, "one", rows_with(), f"{out}/set.parquet", resume=True)


def test_rights_of_the_producer_are_told_before_the_work(store: ObjectStore, out: str) -> None:
    head = JournalHead(source={"name": "data"})
    with (
        _as_user(store, "reader"),
        pytest.raises(OutputError, match="may not be written with") as raised,
    ):
        open_sink(f"{out}/set.parquet", 10, False, journal=head, in_parts=True)
    assert f"{out}/.set.parquet.journal/00000: " in str(raised.value)
    with _as_user(store, "stranger"), pytest.raises(OutputError, match="may not be listed with this machine's"):
        check_output(f"{out}/set.parquet", False, in_parts=True)
    with pytest.raises(OutputError, match="no bucket nobucket; check the URL, and the endpoint in the environment"):
        check_output("s3://nobucket/set.parquet", False, in_parts=True)


@contextmanager
def _as_user(store: ObjectStore, user: str) -> Iterator[None]:
    with patch.dict(os.environ, store.environment(user)), patch("tasks.storage.stores._stores", {}):
        yield


@pytest.mark.parametrize(
    ("output", "in_parts", "told"),
    [
        ("s3://rows/x.zarr", False, "a Zarr store is many objects, which workers write: end it with a /"),
        ("https://host/x.npy", True, "web servers are not written to; use a store of objects"),
        ("s3://rows/x.npz", True, "a folder of such files cannot be written; use .parquet"),
        ("s3://rows/outputs/../x.npy", True, "has a segment that is empty"),
        ("s3://key:secret@rows/x.npy", True, "credentials come from each machine's environment"),
    ],
)
def test_what_is_not_written_is_told(output: str, in_parts: bool, told: str) -> None:
    with pytest.raises(UsageError, match=told) as raised:
        check_output(output, False, in_parts=in_parts)
    assert "secret" not in str(raised.value)


def test_workers_write_nowhere_but_under_their_roots(client: Client) -> None:
    for prefix in (
        "s3://rows/other",
        "s3://rows/outputs-2",
        "s3://rows/Outputs",
        "s3://more/outputs",
        "gs://rows/outputs",
    ):
        with pytest.raises(UsageError, match="may not write there: it is under no folder of their CELERIAC_OUTPUT"):
            begin_writing(client, "one", rows_with(), f"{prefix}/.set.npy.part/0")
    # Where the producer does not look, the worker does.
    for prefix in (
        "s3://rows/other", "s3://rows/outputs-2", "s3://rows/outputs/../other", "s3://rows/outputs/%2e%2e/../x", "s3://rows",
        "s3://key:secret@rows/outputs", "/srv", "file:///srv",
    ):  # fmt: skip
        with patch("producer.job.factory.check_writable"):
            job = begin_writing(client, "one", rows_with(), prefix)
        with pytest.raises(OutputError, match=r"is not under a (URL|folder) of CELERIAC_OUTPUT_ROOTS on this worker"):
            list(job.parts())
    found = names_beneath("s3://rows")
    assert not [name for name in found if name.endswith(".part") and not name.startswith("outputs/")]


def test_a_worker_writes_nothing_where_nobody_wants_it(client: Client, out: str) -> None:
    job = begin_writing(client, "one", rows_with(), f"{out}/.set.npy.part/0")
    with pytest.raises(OutputError, match="is not in this worker's store, or no more; give it the producer's endpoint"):
        list(job.parts())
    assert names_beneath(out) == []


def test_what_is_damaged_after_it_was_written_is_found(client: Client, out: str) -> None:
    def damages(sink: Sink, part: Part) -> None:
        write_part(sink, part)
        if sink.folder and part.start == CHUNK_ROWS and part.stored and part.stored.ref:
            url = object_url(f"{sink.folder.folder}/{part.stored.ref.name}")
            stamp = objects.stat(url)
            objects.put(url, bytes(objects.read_range(url, stamp, 0, stamp.size))[:-1] + b"?")

    with patch.object(Sink, "write", damages), pytest.raises(PredictionFailedError, match="is not as it was written"):
        predict(client, "one", rows_with(), f"{out}/set.parquet", part_bytes=10**9)
