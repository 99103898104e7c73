"""Objects behind URLs that workers read by splits: what comes out, and objects that are not those that were meant."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from producer import Client
from producer.rows.source import splits_of
from producer.scheduling.payload_route import choose_store
from producer.sources import open_source
from producer.sources.formats.split_source import SplitSource
from tasks.datasets.open_file import Opener
from tasks.datasets.split_reader import SplitReader
from tasks.protocol.split_ref import SplitRef, cut
from tasks.storage import objects
from tests.manifests import write_manifest
from tests.object_stores import ObjectStore
from tests.split_files import MODELS, WRITERS, csv, digest
from tests.systems import System, serving
from tests.waiting import wait_for_job
from worker_config.errors import InputError, ObjectChangedError, UsageError
from worker_config.object_urls import object_url


@pytest.fixture(scope="module", autouse=True)
def _environment(object_store: ObjectStore) -> Iterator[None]:
    with object_store.used_here():
        yield


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, object_store: ObjectStore) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("s")
    (folder / "split_models.py").write_text(MODELS)
    environ = {**object_store.environment(), "CELERIAC_DATA_ROOTS": "s3://rows/splits"}
    with serving(folder, write_manifest(folder, {"seen": "split_models:seen"}), environ=environ) as system:
        yield system


def _put(path: Path, prefix: str) -> str:
    """The URL of a file, or of the files of a folder, that are objects now."""
    if path.is_file():
        objects.put(object_url(f"{prefix}/{path.name}"), path)
        return f"{prefix}/{path.name}"
    for file in path.rglob("*"):
        if file.is_file():
            objects.put(object_url(f"{prefix}/{file.relative_to(path.parent)}"), file)
    return f"{prefix}/{path.name}/"


def _parquet(path: Path, first: int) -> Path:
    """Objects of one size, whatever their values."""
    table = pa.table({"x": np.random.default_rng(first).random(20_000)})
    pq.write_table(table, path, row_group_size=1_000, use_dictionary=False, compression="none", write_statistics=False)
    return path


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_workers_give_what_the_library_reads_of_the_same_files(
    client: Client, tmp_path: Path, write: Callable[[Path], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("csv", "jsonl", "tfrecord", "webdataset"):  # so that small files have many blocks
        monkeypatch.setattr(f"tasks.datasets.formats.{name}._BLOCK_BYTES", 4_096)
    monkeypatch.setenv("CELERIAC_CACHE", str(tmp_path / "cache"))
    read_here, take = set(), SplitSource.take_marked

    def noted(self: SplitSource, start: int, stop: int) -> Any:
        read_here.add((start, stop))
        return take(self, start, stop)

    monkeypatch.setattr(SplitSource, "take_marked", noted)
    path, values = write(tmp_path)
    values = {name: column for name, column in values.items() if not name.endswith("null")}
    url = _put(path, f"s3://rows/splits/{write.__name__}")
    options = {"contents": True} if path.name == "files" else {} if "" in values else {"columns": list(values)}
    source = open_source(url, **options)
    job = client.submit("seen", source, store="slices", chunk_rows=170)
    outputs = job.result()
    assert read_here == {(0, 1)}  # to see whether the model takes such rows
    assert isinstance(outputs, np.ndarray)
    assert outputs.tolist() == [digest(list(row)) for row in zip(*values.values(), strict=True)]


def test_objects_outside_the_roots_are_read_by_the_producer(client: Client, tmp_path: Path) -> None:
    path, values = csv(tmp_path)
    source = open_source(_put(path, "s3://rows/splitsets"), columns=["text", "number"])
    with pytest.raises(UsageError, match="CELERIAC_DATA_ROOTS"):
        client.submit("seen", source, store="slices")
    wanted = [digest(list(row)) for row in zip(values["text"], values["number"], strict=True)]
    assert np.asarray(client.predict("seen", source)).tolist() == wanted


def test_a_worker_that_cannot_read_objects_is_not_asked(system: System, tmp_path: Path) -> None:
    url = _put(_parquet(tmp_path / "x.parquet", 1), "s3://rows/splits")
    np.save(tmp_path / "x.npy", np.zeros((3, 4), np.float32))
    array = _put(tmp_path / "x.npy", "s3://rows/splits")
    slots, settings = system.slots(), system.settings()
    poor = [msgspec.structs.replace(slot, reads=[one for one in slot.reads if one != "objects"]) for slot in slots]
    lacks = rf"the library that reads objects \({slots[0].worker}; pip install 'celeriac\[objects\]'\)"
    for source in (open_source(url), open_source(array)):
        assert choose_store(source, slots, settings, None)[0] == "slices"
        assert choose_store(source, poor, settings, None)[0] == "redis"
        with pytest.raises(UsageError, match=lacks):
            choose_store(source, poor, settings, "slices")


def test_a_worker_opens_nothing_outside_its_roots_and_no_other_object(tmp_path: Path) -> None:
    path = _parquet(tmp_path / "x.parquet", 1)
    url = _put(path, "s3://rows/splits")
    splits = splits_of(open_source(url))
    assert splits
    ref = splits.open().in_place()
    assert isinstance(ref, SplitRef)
    assert [(span.path, bool(span.etag)) for span in ref.spans] == [(url, True)]
    part = cut(ref, 1_500, 2_500)
    with pytest.raises(InputError, match=rf"^{url} is not under a URL of CELERIAC_DATA_ROOTS here"):
        SplitReader(Opener(["/", "s3://rows/split", "gs://rows"])).read(part)
    reader = SplitReader(Opener(["s3://rows/splits"]))
    rows = reader.read(part)
    assert isinstance(rows, dict)
    np.testing.assert_array_equal(rows["x"], pq.read_table(path)["x"].to_numpy()[1_500:2_500])
    size = path.stat().st_size
    _put(_parquet(path, 2), "s3://rows/splits")
    assert path.stat().st_size == size  # so that nothing but the ETag tells
    now = splits_of(open_source(url))
    assert now
    changed = now.open().in_place()
    assert isinstance(changed, SplitRef)
    spans = [msgspec.structs.replace(span, mtime_ns=ref.spans[0].mtime_ns) for span in changed.spans]
    rows = reader.read(cut(msgspec.structs.replace(changed, spans=spans), 1_500, 2_500))
    assert isinstance(rows, dict)
    np.testing.assert_array_equal(rows["x"], pq.read_table(path)["x"].to_numpy()[1_500:2_500])
    for one in (reader, SplitReader(Opener(["s3://rows/splits"]))):
        with pytest.raises(ObjectChangedError, match=rf"^{url}: has changed since it was looked at"):
            one.read(cut(ref, 10_000, 20_000))


def test_an_object_that_changes_during_a_job_ends_it_with_one_clear_error(client: Client, tmp_path: Path) -> None:
    (tmp_path / "many").mkdir()
    for number in range(20):
        _parquet(tmp_path / "many" / f"part-{number:02}.parquet", number)
    folder = _put(tmp_path / "many", "s3://rows/splits")
    job = client.submit("seen", folder, store="slices", chunk_rows=1_000)
    parts = job.parts()
    next(parts)
    _put(_parquet(tmp_path / "part-19.parquet", 77), folder.removesuffix("/"))
    with pytest.raises(ObjectChangedError, match=rf"^{folder}part-19\.parquet: has changed since it was looked at"):
        for _ in parts:
            pass
    wait_for_job(job)
