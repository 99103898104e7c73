"""Zarr stores that workers write behind URLs: as the producer writes them to a disk, and always the first rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import zarr
from obstore.store import S3Store
from zarr.storage import ObjectStore as ZarrObjects

from producer import Client
from producer.outputs.summary import PredictionFailedError
from producer.rows.part import Part
from producer.sinks import Sink, check_output
from producer.sinks.zarr_store import ZarrStore
from tasks.outputs import zarr as zarr_module
from tasks.protocol.messages import OnError
from tasks.storage import objects
from tests.fault_proxy import FaultProxy, proxy_before
from tests.integration.test_object_outputs import fetched, names_beneath
from tests.integration.test_zarr_writes import BLOCK_ROWS, CHUNK_BYTES, MORE_STEPS
from tests.object_stores import ObjectStore
from tests.output_sets import assert_same
from tests.sink_outputs import read_zarr, zarr_reader
from tests.split_writes import STEPS, predict, rows_with, stepped, writing
from tests.systems import System
from tests.waiting import wait_until
from worker_config.errors import OutputError
from worker_config.object_urls import object_url

ROOT = "s3://rows/zarr"


@pytest.fixture(scope="module")
def proxy(object_store: ObjectStore) -> Iterator[FaultProxy]:
    """Between the workers and the store."""
    with proxy_before(object_store.port) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, object_store: ObjectStore, proxy: FaultProxy) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("z")
    environ = {**object_store.environment(endpoint=proxy.endpoint), "CELERIAC_OUTPUT_ROOTS": ROOT}
    entries = stepped("all_kinds", "one", "zeros", "empty")
    with writing(folder, entries, STEPS + MORE_STEPS, environ) as system:
        yield system


@pytest.fixture(autouse=True)
def store(object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    monkeypatch.setattr(zarr_module, "ZARR_CHUNK_BYTES", CHUNK_BYTES)
    monkeypatch.setattr(zarr_module, "ZARR_BLOCK_BYTES", 16_384)
    with object_store.used_here():
        objects.put(object_url("s3://rows/there"), b"so that there is a bucket")
        yield object_store


@pytest.fixture
def client(system: System, proxy: FaultProxy) -> Iterator[Client]:
    proxy.refused.clear()
    with Client(system.url, settings=system.settings()) as client:
        yield client


@pytest.fixture
def out(request: pytest.FixtureRequest) -> str:
    return f"{ROOT}/{abs(hash(request.node.name))}"


def opened(store: ObjectStore, url: str) -> zarr.Array | zarr.Group:
    """As whoever has the zarr library and obstore opens it."""
    options = {"allow_http": True}
    keys = {"access_key_id": "key-of-all", "secret_access_key": "secret-of-all", "region": "us-east-1"}
    prefix = url.removeprefix("s3://rows/")
    s3 = S3Store("rows", prefix=prefix, endpoint=store.endpoint, client_options=options, **keys)
    return zarr.open(ZarrObjects(s3, read_only=True), mode="r")


def arrays_of(node: zarr.Array | zarr.Group, name: str = "") -> dict[str, np.ndarray]:
    """All arrays, by the names that `read_zarr` gives them."""
    if isinstance(node, zarr.Array):
        return {name or "output": node[...]}
    inner = {f"{name}/{one}".lstrip("/"): member for one, member in node.members()}
    return {key: array for one, member in inner.items() for key, array in arrays_of(member, one).items()}


def assert_same_as_file(out: str, file: Path) -> None:
    assert_same(fetched(out, file.parent / "fetched") / "set.zarr", file)


@pytest.mark.parametrize("on_error", ["skip", "fill"])
def test_a_store_of_many_blocks_is_the_one_that_the_producer_writes(
    client: Client, store: ObjectStore, out: str, tmp_path: Path, on_error: OnError
) -> None:
    raising = [0, 700, *range(768, 1024), 2_999]
    data = rows_with(raising, dropped=[1, 500, *range(1_280, 1_536)])
    whole, output = tmp_path / "file.zarr", f"{out}/set.zarr"
    expected = predict(client, "all_kinds", data, whole, on_error=on_error, in_parts=False)
    with zarr_reader(lambda: arrays_of(opened(store, output)), whole) as seen:
        summary = predict(client, "all_kinds", data, output, on_error=on_error, part_bytes=20_000, sync_seconds=0.0)
        wait_until(lambda: seen, "somebody has looked")
    assert_same_as_file(out, whole)
    assert summary.fill == expected.fill
    assert summary.ledger["written"] == expected.ledger["written"]
    beside = {name for name in names_beneath(out) if not name.startswith("set.zarr/")}
    assert beside == {f"set.zarr.{name}" for name in ("manifest.json", "ledger.json", "failures.jsonl")}
    got, wanted = arrays_of(opened(store, output)), read_zarr(whole)
    assert got.keys() == wanted.keys()
    for name, array in got.items():
        np.testing.assert_array_equal(array, wanted[name])


@pytest.mark.parametrize("model", ["one", "zeros", "empty"])
def test_each_kind_of_array_is_as_the_producer_writes_it(client: Client, out: str, tmp_path: Path, model: str) -> None:
    data = rows_with(dropped=range(100))
    predict(client, model, data, tmp_path / "file.zarr", in_parts=False)
    predict(client, model, data, f"{out}/set.zarr", part_bytes=5_000)
    assert_same_as_file(out, tmp_path / "file.zarr")


_write = Sink.write


def _stops(sink: Sink, part: Part) -> None:
    """Write about two thirds of the rows, and end when the first of the blocks are in the store."""
    folder = sink.folder
    if part.stop > 2_000 and folder:
        wait_until(lambda: folder.sync() or len(folder.files) > 1, "stores are merged")
        raise OutputError("stopped")
    _write(sink, part)


def test_a_run_that_was_stopped_is_continued(client: Client, store: ObjectStore, out: str, tmp_path: Path) -> None:
    data, whole, output = rows_with(), tmp_path / "file.zarr", f"{out}/set.zarr"
    predict(client, "all_kinds", data, whole, in_parts=False)
    with zarr_reader(lambda: arrays_of(opened(store, output)), whole) as seen:
        with patch.object(Sink, "write", _stops), pytest.raises(PredictionFailedError, match="continue with --resume"):
            predict(client, "all_kinds", data, output, part_bytes=20_000, sync_seconds=0.0)
        wait_until(lambda: seen, "the first rows are there")
        with pytest.raises(OutputError, match="continue it with --resume, or begin again with --force"):
            predict(client, "all_kinds", data, output)
        summary = predict(client, "all_kinds", data, output, part_bytes=20_000, resume=True)
    assert summary.ledger["resumed"] > 1_000
    assert {count % BLOCK_ROWS for count in seen} <= {0, len(data) % BLOCK_ROWS}
    assert_same_as_file(out, whole)


@pytest.mark.parametrize("is_first", [True, False])
def test_one_that_was_killed_as_it_replaced_a_store_is_continued(
    client: Client, out: str, tmp_path: Path, is_first: bool
) -> None:
    data, output = rows_with([2_900]), f"{out}/set.zarr"
    predict(client, "one", rows_with(), output, part_bytes=5_000)
    predict(client, "one", data, tmp_path / "file.zarr", in_parts=False, on_error="skip")
    append, calls = ZarrStore._append, 0

    def killed(*args: object) -> None:
        nonlocal calls
        calls += 1
        if is_first or calls > 2:
            raise OutputError("killed")
        append(*args)

    with patch.object(ZarrStore, "_append", killed), pytest.raises(PredictionFailedError, match="killed"):
        predict(client, "one", data, output, part_bytes=5_000, on_error="skip", force=True, sync_seconds=0.0)
    assert not (is_first and names_beneath(output))
    predict(client, "one", data, output, on_error="skip", resume=True)
    assert_same_as_file(out, tmp_path / "file.zarr")


def test_an_old_store_stays_until_the_new_one_is_whole_and_nothing_else_is_replaced(client: Client, out: str) -> None:
    output = f"{out}/set.zarr"
    predict(client, "one", rows_with(), output)
    old = names_beneath(output)
    with pytest.raises(OutputError, match="use --force to replace it"):
        predict(client, "one", rows_with(), output)
    with pytest.raises(PredictionFailedError, match="a bad row"):
        predict(client, "one", rows_with([2_900]), output, force=True, sync_seconds=0.0)
    assert names_beneath(output) == old
    objects.put(object_url(f"{out}/thesis.zarr/thesis.txt"), b"years of work")
    with pytest.raises(OutputError, match="exists and is no Zarr store; choose another name"):
        check_output(f"{out}/thesis.zarr", True, in_parts=True)


def test_of_two_that_go_on_the_first_one_ends(client: Client, out: str, tmp_path: Path) -> None:
    data, output = rows_with(), f"{out}/set.zarr"
    predict(client, "all_kinds", data, tmp_path / "file.zarr", in_parts=False)
    resumed = []

    def goes_on_twice(sink: Sink, part: Part) -> None:
        _write(sink, part)
        if part.stop > 1_000 and not resumed:
            resumed.append(0)
            resumed[0] = predict(client, "all_kinds", data, output, part_bytes=20_000, resume=True).ledger["resumed"]

    ends = pytest.raises(PredictionFailedError, match="another process writes it by now")
    with patch.object(Sink, "write", goes_on_twice), ends:
        predict(client, "all_kinds", data, output, part_bytes=20_000, sync_seconds=0.0)
    assert resumed[0]
    assert_same_as_file(out, tmp_path / "file.zarr")


def test_who_has_lost_the_output_makes_it_no_shorter(client: Client, out: str, tmp_path: Path) -> None:
    """It stood still between its last line of the journal and what it gave a name by that."""
    data, output = rows_with(), f"{out}/set.zarr"
    predict(client, "all_kinds", data, tmp_path / "file.zarr", in_parts=False)
    done: list[int] = []
    append = ZarrStore._append

    def waits(sink: Sink, part: Part) -> None:
        _write(sink, part)
        folder = sink.folder
        if part.stop > 1_000 and folder:
            wait_until(lambda: folder.sync() or folder.files, "a store is merged")

    def stands_still(self: ZarrStore, *args: object) -> None:
        if not done:
            done.append(0)
            with patch.object(ZarrStore, "_append", append), patch.object(Sink, "write", _write):
                predict(client, "all_kinds", data, output, part_bytes=20_000, resume=True)
        append(self, *args)

    with (
        patch.object(Sink, "write", waits),
        patch.object(ZarrStore, "_append", stands_still),
        pytest.raises(PredictionFailedError, match="another process writes it by now"),
    ):
        predict(client, "all_kinds", data, output, part_bytes=20_000, sync_seconds=0.0)
    assert_same_as_file(out, tmp_path / "file.zarr")


def test_a_store_that_throttles_or_fails_costs_time_alone(
    client: Client, proxy: FaultProxy, out: str, tmp_path: Path
) -> None:
    data = rows_with()
    predict(client, "all_kinds", data, tmp_path / "file.zarr", in_parts=False)
    proxy.refused.update({"PUT /rows/zarr": (12, 503), "GET /rows/zarr": (6, 500), ".zarr/flag/c/0": (5, 500)})
    predict(client, "all_kinds", data, f"{out}/set.zarr", part_bytes=20_000)
    assert {count for count, _ in proxy.refused.values()} == {0}
    assert_same_as_file(out, tmp_path / "file.zarr")


def test_a_store_that_refuses_workers_ends_the_job_in_one_line(client: Client, proxy: FaultProxy, out: str) -> None:
    proxy.refused[".zarr/c/"] = (10**6, 403)
    with pytest.raises(PredictionFailedError, match="may not be written with this machine's credentials") as raised:
        predict(client, "one", rows_with(), f"{out}/set.zarr")
    assert "\n" not in str(raised.value)
    proxy.refused.clear()
    predict(client, "one", rows_with(), f"{out}/set.zarr", resume=True)


def test_chunks_that_are_lost_are_told_and_are_no_zeros(client: Client, out: str) -> None:
    append = ZarrStore._append

    def loses(self: ZarrStore, file: object, merged: object, start: int) -> None:
        lost = next(name for name in names_beneath(str(merged)) if "/c/" in name)
        objects.delete([object_url(f"{merged}/{lost}")])
        append(self, file, merged, start)

    with (
        patch.object(ZarrStore, "_append", loses),
        pytest.raises(PredictionFailedError, match="a Zarr chunk of merged"),
    ):
        predict(client, "all_kinds", rows_with(), f"{out}/set.zarr")
    assert names_beneath(f"{out}/set.zarr") == []
