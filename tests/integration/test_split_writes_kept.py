"""Columns of the input beside outputs that workers write: as in one file, whoever has read the columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from producer import Client
from producer.outputs.summary import PredictionFailedError
from producer.sinks import Sink
from producer.sources import open_source
from producer.sources.formats.split_source import SplitSource
from tasks.protocol.messages import OnError
from tasks.protocol.split_ref import SplitRef, cut
from tests.output_sets import assert_same, begin_writing, names_in, read_folder
from tests.split_writes import CHUNK_ROWS, ROWS, predict, stepped, stops, writing
from tests.systems import System, shared_folders
from worker_config.errors import UsageError

# Rows that fail and rows that are dropped, among them whole chunks.
FAILED = {0, 700, *range(768, 1_024), 1_300, 2_999}
DROPPED = {1, 500, *range(1_280, 1_300)}

STEPS = """
import numpy as np


def meet(rows):
    values = np.asarray(rows["x"])
    if (values[:, 0] == 1).any():
        raise ValueError("a bad row")
    return [None if row[0] == 2 else row for row in values]


def scores(rows):
    return {"scores": np.asarray(rows)[:, :3] * 2, "label": np.array([f"l{row[1]:.0f}" for row in rows], object)}


def one(rows):
    return np.asarray(rows)[:, 1].copy()


def length(rows):
    return np.array([len(row) for row in rows])
"""


def table(failed: Any = FAILED, dropped: Any = DROPPED) -> pa.Table:
    """A vector for the models, and columns of many kinds, some with nulls, that no model takes."""
    x = np.random.default_rng(3).random((ROWS, 4)).astype(np.float32) * 10
    x[:, 0] = [1 if row in failed else 2 if row in dropped else 0 for row in range(ROWS)]
    rows = range(ROWS)
    return pa.table(
        {
            "x": pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), 4),
            "id": [f"id {row}" for row in rows],
            "raw": [None if row < 400 or row % 7 == 0 else bytes([row % 256, 255]) for row in rows],
            "count": pa.array([None if row % 11 == 3 else row for row in rows], pa.int64()),
            "day": pa.array(np.arange(ROWS).astype("datetime64[s]")),
            "pair": pa.FixedSizeListArray.from_arrays(pa.array(np.arange(2 * ROWS)), 2),
        }
    )


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("k")
    entries = {**stepped("scores", "one", columns={"x": ["x"]}), "length": "steps:length"}
    with writing(folder, entries, STEPS, shared_folders(folder)) as system:
        yield system


@pytest.fixture
def data(system: System, request: pytest.FixtureRequest) -> Path:
    folder = system.folder / "data" / str(abs(hash(request.node.name)))
    folder.mkdir()
    return folder


@pytest.fixture
def read_here(monkeypatch: pytest.MonkeyPatch) -> set[tuple[int, int]]:
    """Which rows of files that can be cut this process reads."""
    read, take = set(), SplitSource.take_marked

    def noted(self: SplitSource, start: int, stop: int) -> Any:
        read.add((start, stop))
        return take(self, start, stop)

    monkeypatch.setattr(SplitSource, "take_marked", noted)
    return read


def parquet(folder: Path, rows: pa.Table) -> Any:
    pq.write_table(rows, folder / "x.parquet", row_group_size=170)
    return open_source(folder / "x.parquet", columns=["x"])


def feather(folder: Path, rows: pa.Table) -> Any:
    pa.feather.write_feather(rows, folder / "x.feather", chunksize=77)
    return open_source(folder / "x.feather", columns=["x"])


KEPT = ["raw", "id", "count", "day"]


@pytest.mark.parametrize("on_error", ["skip", "fill"])
@pytest.mark.parametrize("suffix", [".parquet", ".feather", ".csv", ".jsonl"])
def test_workers_put_columns_beside_outputs_that_nobody_else_reads(
    client: Client, data: Path, out: Path, read_here: set[tuple[int, int]], suffix: str, on_error: OnError
) -> None:
    path = parquet(data, table())
    folder, file = out / f"set{suffix}", out / f"file{suffix}"
    summary = predict(client, "scores", path, folder, on_error=on_error, keep=[*KEPT, "pair"])
    # The first row shows whether the model takes such rows; those of a chunk that failed as a whole have no outputs.
    if not summary.ledger["chunks_sent_again"]:  # as on a busy machine, with their rows
        assert {row for start, stop in read_here for row in range(start, stop)} <= {0, *range(768, 1_024)}
    predict(client, "scores", path, file, on_error=on_error, in_parts=False, keep=[*KEPT, "pair"])
    assert len(names_in(folder)) > 1
    assert summary.ledger["failed"] == len(FAILED)
    assert_same(folder, file)


@pytest.mark.parametrize("on_error", ["skip", "fill"])
@pytest.mark.parametrize("made", ["outside", "in memory"])
def test_columns_travel_with_rows_that_workers_cannot_read(
    client: Client, tmp_path: Path, out: Path, made: str, on_error: OnError
) -> None:
    source: Any = table().select(["x", "id", "pair"]) if made == "in memory" else parquet(tmp_path, table())
    keep = ["pair", "id"] if made == "in memory" else KEPT
    folder, file = out / "set.parquet", out / "file.parquet"
    predict(client, "one", source, folder, on_error=on_error, keep=keep)
    predict(client, "one", source, file, on_error=on_error, in_parts=False, keep=keep)
    assert read_folder(folder).column_names[: len(keep) + 1] == ["row", *keep]
    assert_same(folder, file)


@pytest.mark.parametrize("write", [feather])
def test_other_formats_are_read_there_too(
    client: Client, data: Path, out: Path, read_here: set[tuple[int, int]], write: Callable[[Path, pa.Table], Any]
) -> None:
    path = write(data, table((), ()))
    predict(client, "one", path, out / "set.jsonl", keep=["id", "count"])
    assert read_here <= {(0, 1)}
    predict(client, "one", path, out / "file.jsonl", in_parts=False, keep=["id", "count"])
    assert_same(out / "set.jsonl", out / "file.jsonl")


@pytest.mark.parametrize("contents", [False, True])
def test_paths_stand_beside_what_became_of_files(client: Client, data: Path, out: Path, contents: bool) -> None:
    for number in range(40):
        (data / f"{number:02d}.txt").write_text("x" * number)
    source = open_source(data, contents=contents)
    predict(client, "length", source, out / "set.csv", keep=["path"])
    predict(client, "length", source, out / "file.csv", in_parts=False, keep=["path"])
    assert_same(out / "set.csv", out / "file.csv")
    assert read_folder(out / "set.csv")["path"].to_pylist() == [str(data / f"{n:02d}.txt") for n in range(40)]


def test_a_run_that_was_stopped_goes_on_with_its_columns(
    client: Client, data: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, folder, file = parquet(data, table()), out / "set.parquet", out / "file.parquet"
    options: dict[str, Any] = {"on_error": "fill", "keep": KEPT}
    predict(client, "scores", path, file, in_parts=False, **options)
    with monkeypatch.context() as patch:
        patch.setattr(Sink, "write", stops)
        with pytest.raises(PredictionFailedError, match="rows are safe beside"):
            predict(client, "scores", path, folder, sync_seconds=0.0, **options)
    predict(client, "scores", path, folder, resume=True, **options)
    assert_same(folder, file)


def test_what_a_worker_cannot_read_is_sent(
    system: System, client: Client, data: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def elsewhere(whole: SplitRef, start: int, stop: int) -> SplitRef:
        ref = cut(whole, start, stop)
        spans = [msgspec.structs.replace(span, path=f"{span.path}.gone") for span in ref.spans]
        return msgspec.structs.replace(ref, spans=spans) if start == CHUNK_ROWS else ref

    source = parquet(data, table())
    monkeypatch.setattr("producer.job.dispatcher.cut", elsewhere)
    summary = predict(client, "one", source, out / "set.parquet", on_error="skip", keep=KEPT)
    assert summary.job
    assert len(system.resent(summary.job)) == 1
    predict(client, "one", source, out / "file.parquet", on_error="skip", in_parts=False, keep=KEPT)
    assert_same(out / "set.parquet", out / "file.parquet")


def test_a_column_that_is_called_as_an_output_is_refused(client: Client, data: Path, out: Path) -> None:
    rows = table((), ()).rename_columns(["x", "label", "raw", "count", "day", "pair"])
    path = parquet(data, rows)
    for in_parts in (True, False):
        with pytest.raises(PredictionFailedError, match="'label' cannot be kept: an output has this name; rename"):
            predict(client, "scores", path, out / "set.parquet", in_parts=in_parts, keep=["label"])


def test_columns_are_kept_only_where_workers_write(client: Client, out: Path) -> None:
    with pytest.raises(UsageError, match="keep is for outputs that workers write"):
        begin_writing(client, "one", table((), ()), out, write_to=None, keep=["id"])
    rows = table((), ()).select(["x", "id"])
    job = begin_writing(client, "one", rows, out, keep=["row", "id"], chunk_rows=CHUNK_ROWS)
    first = next(iter(job.parts()))
    assert first.stored is not None
    assert first.stored.ref is not None
    assert [one.key for one in first.stored.ref.kept] == [("id",)]
