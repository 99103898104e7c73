"""Zarr stores that workers write: the same files as where the producer writes them, and always the first rows.

Blocks are small, so that an output has many: chunks of the job, blocks and Zarr chunks end at different rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from producer import Client
from producer.outputs.summary import PredictionFailedError
from producer.rows.part import Part
from producer.sinks import Sink
from producer.sinks.final_files import manifest_path
from producer.sources import from_batches
from tasks.outputs import zarr as zarr_module
from tasks.protocol.messages import OnError
from tests.output_sets import assert_same, files_of
from tests.sink_outputs import read_zarr, zarr_reader
from tests.split_writes import CHUNK_ROWS, STEPS, predict, rows_with, stepped, write_part, writing
from tests.systems import System
from tests.waiting import wait_until
from worker_config.errors import OutputError

# Of rows of `all_kinds` without a mask, which have 125 bytes.
BLOCK_ROWS = 128
CHUNK_BYTES = 4_096
# Workers, whose children import this, have the same small Zarr chunks as the producer.
MORE_STEPS = f"""
from tasks.outputs import zarr

zarr.ZARR_CHUNK_BYTES = {CHUNK_BYTES}


def zeros(rows):
    return np.zeros((len(rows), 2, 3), np.int32)


def empty(rows):
    return {{"none": np.zeros((len(rows), 0), np.float32), "number": np.asarray(rows)[:, 1]}}


def odd_name(rows):
    return {{"zarr.json": np.asarray(rows)}}
"""


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    models = stepped("all_kinds", "one", "bytes_of", "zeros", "empty", "odd_name")
    with writing(tmp_path_factory.mktemp("w"), models, STEPS + MORE_STEPS) as system:
        yield system


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zarr_module, "ZARR_CHUNK_BYTES", CHUNK_BYTES)
    monkeypatch.setattr(zarr_module, "ZARR_BLOCK_BYTES", 16_384)


@pytest.mark.parametrize("on_error", ["skip", "fill"])
def test_a_store_of_many_blocks_is_the_one_that_the_producer_writes(
    client: Client, out: Path, on_error: OnError
) -> None:
    raising = [0, 700, *range(768, 1024), 2_999]
    data = rows_with(raising, dropped=[1, 500, *range(1_280, 1_536)])
    whole, store = out / "file.zarr", out / "set.zarr"
    expected = predict(client, "all_kinds", data, whole, on_error=on_error, in_parts=False)
    with zarr_reader(lambda: read_zarr(store), whole) as seen:
        summary = predict(client, "all_kinds", data, store, on_error=on_error, sync_seconds=0.0)
    assert_same(store, whole)
    assert summary.fill == expected.fill
    assert {count for count in seen if count % BLOCK_ROWS} <= {len(read_zarr(store)["flag"])}
    for name in ("rows", "predicted", "failed", "skipped", "written"):
        assert summary.ledger[name] == expected.ledger[name]


@pytest.mark.parametrize("part_bytes", [1, 10**9])
@pytest.mark.parametrize("rows", [0, 1, BLOCK_ROWS - 1, BLOCK_ROWS, BLOCK_ROWS + 1, 5 * BLOCK_ROWS])
def test_any_number_of_rows_is_as_the_producer_writes_it(client: Client, out: Path, rows: int, part_bytes: int) -> None:
    data = rows_with(rows=rows)
    predict(client, "all_kinds", data, out / "file.zarr", in_parts=False)
    predict(client, "all_kinds", data, out / "set.zarr", part_bytes=part_bytes, sync_seconds=0.0)
    assert_same(out / "set.zarr", out / "file.zarr")


@pytest.mark.parametrize("model", ["one", "zeros", "empty"])
@pytest.mark.parametrize("is_known", [True, False])
def test_each_kind_of_array_is_as_the_producer_writes_it(client: Client, out: Path, model: str, is_known: bool) -> None:
    data = rows_with(dropped=range(100))
    source: Any = data if is_known else from_batches(np.array_split(data, 11))
    predict(client, model, source, out / "file.zarr", in_parts=False)
    predict(client, model, source, out / "set.zarr", part_bytes=5_000)
    assert_same(out / "set.zarr", out / "file.zarr")


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("bytes_of", "the output is bytes, which Zarr has no lasting form for"),
        ("odd_name", "output 'zarr.json' cannot be the name of a Zarr array"),
    ],
)
def test_what_zarr_does_not_hold_ends_the_job(client: Client, out: Path, model: str, told: str) -> None:
    for in_parts in (True, False):
        with pytest.raises(PredictionFailedError, match=told) as raised:
            predict(client, model, rows_with(), out / f"{in_parts}.zarr", in_parts=in_parts)
        assert "/proc/" not in str(raised.value)


@pytest.mark.parametrize("blocks", [0, 1, 9])
def test_a_run_that_was_stopped_is_continued(
    client: Client, out: Path, monkeypatch: pytest.MonkeyPatch, blocks: int
) -> None:
    """After so many blocks; chunks end within them, so that a part is in two."""

    def stops(sink: Sink, part: Part) -> None:
        folder = sink.folder
        if folder and part.stop > blocks * BLOCK_ROWS + CHUNK_ROWS:
            wait_until(lambda: folder.sync() or sum(one.rows for one in folder.files) >= blocks * BLOCK_ROWS, "merged")
            raise OutputError("stopped")
        write_part(sink, part)

    data = rows_with([200], dropped=range(300, 333))
    whole, store = out / "file.zarr", out / "set.zarr"
    predict(client, "all_kinds", data, whole, on_error="skip", in_parts=False)
    with zarr_reader(lambda: read_zarr(store), whole) as seen:
        with monkeypatch.context() as patch:
            patch.setattr(Sink, "write", stops)
            with pytest.raises(PredictionFailedError, match="continue with --resume"):
                predict(client, "all_kinds", data, store, on_error="skip", part_bytes=1, sync_seconds=0.0)
        if blocks:
            wait_until(lambda: seen, "the first rows are there")
        summary = predict(client, "all_kinds", data, store, on_error="skip", part_bytes=1, resume=True)
    assert summary.ledger["resumed"] > 0
    assert_same(store, whole)


def test_a_store_is_replaced_at_the_end_and_only_a_store(client: Client, out: Path) -> None:
    store = out / "set.zarr"
    predict(client, "one", rows_with(), store, in_parts=False)
    old = files_of(store)
    with pytest.raises(OutputError, match="use --force to replace it"):
        predict(client, "one", rows_with(), store)
    with pytest.raises(PredictionFailedError, match="a bad row"):
        predict(client, "one", rows_with([2_900]), store, force=True, sync_seconds=0.0)
    assert files_of(store) == old
    predict(client, "one", rows_with([2_900]), store, on_error="skip", force=True, part_bytes=5_000)
    predict(client, "one", rows_with([2_900]), out / "file.zarr", on_error="skip", in_parts=False)
    assert_same(store, out / "file.zarr")
    # One that the producer writes has no manifest.
    predict(client, "one", rows_with(), store, force=True, in_parts=False)
    assert not manifest_path(store).exists()
    (out / "thesis.zarr").mkdir()
    (out / "thesis.zarr" / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="exists and is no Zarr store; choose another name"):
        predict(client, "one", rows_with(), out / "thesis.zarr", force=True)
    assert (out / "thesis.zarr" / "thesis.txt").read_text() == "years of work"
