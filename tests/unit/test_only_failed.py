"""The failed rows of a finished output are predicted again and put at their place, or the output stays as it was."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import ml_dtypes
import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr

from producer.client import Client
from producer.outputs.only_failed import finished_output, predict_failed
from producer.outputs.predict_to_sink import predict_to_sink
from producer.outputs.run_options import RunOptions
from producer.outputs.sidecar_files import failures_path, ledger_path, read_beside
from producer.outputs.summary import PredictionFailedError, Summary
from producer.records.job_store import JobState
from producer.records.ledger import Ledger
from producer.records.progress import Progress
from producer.rows.kept import KeptColumns
from producer.rows.part import Part
from producer.rows.source import table_of
from producer.scheduling.job_options import JobOptions
from producer.sinks import JournalHead, open_sink
from producer.sinks.mending import patch_rows as patch_module
from producer.sinks.mending.read_back import READABLE
from producer.sources import BatchSource, Source, from_arrays, from_batches
from tasks.outputs import writer as writer_module
from tasks.outputs.failed_mask import Fill, mask_path
from tasks.outputs.widen import wide_dtype
from tasks.protocol.dtypes import json_filler
from tasks.protocol.messages import Differed, FailureRecord, OnError
from tests.failed_rows import POLICIES, filled, kept, parts_with_failures, pick, record, rows_of, take_marks
from tests.sink_outputs import READERS, leaves
from worker_config.errors import CeleriacError, InputError, JobCancelledError, ModelError, OutputError, RowsFailedError

ROWS = 40
FAILED = {0, 1, 2, 9, 17, 18, 30, 39}
HEAD = {"path": "rows.npy"}, {"m": "9f3c"}


class Model:
    """A client whose model fails for some rows, by their value, and gives any outputs for the others."""

    def __init__(
        self, run: Callable[[Any], Any], bad: set[int], *, chunk_rows: int = 3, end: BaseException | None = None
    ) -> None:
        self.run, self.bad, self.chunk_rows, self.end = run, bad, chunk_rows, end
        self.id, self.digests = "3f2a90bc41d7", {"m": "9f3c"}
        self.seen: list[int] = []
        self.cancelled = False
        self.failed_models: dict[str, FailureRecord] = {}
        self.stages: dict[str, float] = {}
        self.dependent: dict[str, str] = {}
        self.differed: dict[str, Differed] = {}
        self.output_name = ""

    def _begin_job(self, _: object, source: Source | BatchSource, options: JobOptions) -> Model:
        if table := table_of(source):
            source = table.only(["x"])
            self.rows = cast("Any", source).take(0, source.rows)["x"]
        elif isinstance(source, BatchSource):
            self.rows = np.concatenate([np.asarray(batch) for batch in source.batches()])
        else:
            self.rows = cast("np.ndarray", source.take(0, source.rows))
        self.on_error = options.policy.on_error
        self.seen += self.rows.tolist()
        self.ledger = Ledger(rows=len(self.rows))
        return self

    def allow_again(self, on_again: Callable[[], None], first_row: int) -> None:
        """No executor differs."""

    def parts(self) -> Iterator[Part]:
        failed = {position for position, row in enumerate(self.rows.tolist()) if row in self.bad}
        if len(failed) == len(self.rows):
            raise RowsFailedError("no row was predicted")
        outputs = self.run(self.rows)
        for part in parts_with_failures(outputs, len(self.rows), failed, self.on_error, self.chunk_rows):
            good = part.stop - part.start - part.failed_rows
            self.ledger.predicted += good
            self.ledger.written += good
            self.ledger.failed += part.failed_rows
            yield part
            if self.end is not None and part.index == 1:
                raise self.end
        self.ledger.check()

    def progress(self) -> Progress:
        return Progress(JobState.RUNNING, len(self.rows), self.ledger.predicted, self.ledger.failed, 0, 1, 0.0)

    def failures(self) -> list[FailureRecord]:
        return []

    def cancel(self) -> None:
        self.cancelled = True

    def wait(self, timeout_seconds: float) -> bool:
        return timeout_seconds > 0


def numbers(rows: Any) -> Any:
    return {
        "wide": np.stack([rows * 0.5, rows + 1.0], axis=1).astype(np.float32),
        "deep": np.stack([rows] * 6, axis=1).reshape(len(rows), 2, 3).astype(np.int16),
        "sure": rows % 2 == 0,
    }


def texts(rows: Any) -> Any:
    return {"word": np.array([f"né {row}" for row in rows], object), "raw/number": rows.astype(np.float64)}


def one(rows: Any) -> Any:
    return numbers(rows)["wide"]


def halves(rows: Any) -> Any:
    return {"half": one(rows).astype(ml_dtypes.bfloat16)}


def predict(path: Path, run: Callable[[Any], Any], on_error: OnError, failed: set[int] = FAILED) -> Summary:
    sink = open_sink(path, ROWS, False, mask=on_error == "fill")
    head = JournalHead(*HEAD, on_error)
    client = cast("Client", Model(run, failed))
    return predict_to_sink(client, ["m"], from_arrays(np.arange(ROWS)), sink, head, RunOptions(quiet=True))


def again(path: Path, model: Model, source: Any = None) -> Summary:
    with finished_output(path) as finished:
        head = JournalHead(*HEAD, finished.sidecar.on_error)
        source = from_arrays(np.arange(ROWS)) if source is None else source
        finished.check_same(source, head)
        return predict_failed(cast("Client", model), ["m"], source, finished, head, RunOptions(quiet=True))


def check(path: Path, run: Callable[[Any], Any], failed: set[int], on_error: OnError) -> None:
    whole = kept(run(np.arange(ROWS)), ROWS, failed, on_error)
    if path.suffix in (".parquet", ".feather"):
        found = read_table(path, failed if on_error == "skip" else set())
    else:
        found = READERS[path.suffix](path)
    fills = on_error == "fill"
    assert take_marks(path, found) == (sorted(failed) if fills else None)
    expected = {name: array.astype(wide_dtype(array.dtype)) for name, array in leaves(whole).items()}
    if list(expected) == [""]:
        expected = {{".npz": "arr_0"}.get(path.suffix, "output"): expected[""]}
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name].astype(array.dtype), array)
        assert found[name].shape == array.shape
    files = {path.name, ledger_path(path).name, *([failures_path(path).name] if failed else [])}
    files |= {mask_path(path).name} if fills and path.suffix == ".npy" else set()
    assert {file.name for file in path.parent.iterdir()} == files
    told, records = read_beside(path)
    mark = mask_path(path).name if path.suffix == ".npy" else "failed"
    values = {name: json_filler(array.dtype) for name, array in expected.items()}
    assert told.fill == (
        Fill(mark, {"output" if path.suffix == ".npy" else n: v for n, v in values.items()}) if fills else None
    )
    assert rows_of(records) == sorted(failed)
    good = ROWS - len(failed)
    assert (told.ledger["rows"], told.ledger["failed"], told.ledger["predicted"]) == (ROWS, len(failed), good)
    assert told.ledger["written"] == good


def read_table(path: Path, left_out: set[int]) -> dict[str, Any]:
    import pyarrow.feather
    import pyarrow.parquet

    is_parquet = path.suffix == ".parquet"
    table = pyarrow.parquet.read_table(path) if is_parquet else pyarrow.feather.read_table(path)
    assert table["row"].to_pylist() == [row for row in range(ROWS) if row not in left_out]
    arrays = {}
    for field in list(table.schema)[1:]:
        shape = json.loads((field.metadata or {}).get(b"shape", b"null"))
        array = np.array(table[field.name].to_pylist())
        arrays[field.name] = array.reshape(len(array), *shape) if shape else array
    return arrays


CASES = [
    (suffix, run) for suffix in READABLE for run in (one, numbers, texts, halves) if suffix != ".npy" or run is one
]


@pytest.mark.parametrize("block_bytes", [1, 100, 2**20])
@pytest.mark.parametrize("on_error", POLICIES)
@pytest.mark.parametrize(("suffix", "run"), [case for case in CASES if case != (".npz", texts)])
def test_rows_that_go_through_come_to_their_place(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    suffix: str,
    run: Callable[[Any], Any],
    on_error: OnError,
    block_bytes: int,
) -> None:
    path = tmp_path / f"out{suffix}"
    monkeypatch.setattr(patch_module.patched_parts, "__defaults__", (block_bytes,))
    summary = predict(path, run, on_error)
    assert summary.ledger["failed"] == len(FAILED)
    check(path, run, FAILED, on_error)

    model = Model(run, {1, 2, 30})
    summary = again(path, model)
    assert model.seen == sorted(FAILED)
    assert (summary.ledger["failed"], summary.ledger["resumed"], summary.failures) == (3, ROWS - len(FAILED), 3)
    assert summary.rows_per_second == pytest.approx(5 / summary.seconds)
    check(path, run, {1, 2, 30}, on_error)

    again(path, Model(run, set(), chunk_rows=50), from_batches(np.array_split(np.arange(ROWS), 7)))
    check(path, run, set(), on_error)
    with pytest.raises(OutputError, match="no row of it has failed; nothing is left to predict again"):
        again(path, Model(run, set()))


def odd_texts(rows: Any) -> Any:
    return {
        "word": np.array([f'"{row}",\n"é\r' for row in rows], object),
        "raw": np.array([b'"\n'] * len(rows), object),
    }


LINES = [".csv", ".jsonl"]


@pytest.mark.parametrize("block_rows", [1, 7, 2**20])
@pytest.mark.parametrize("on_error", POLICIES)
@pytest.mark.parametrize("run", [one, numbers, halves, odd_texts])
@pytest.mark.parametrize("suffix", LINES)
def test_lines_are_put_among_those_that_stay(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    suffix: str,
    run: Callable[[Any], Any],
    on_error: OnError,
    block_rows: int,
) -> None:
    path, single = tmp_path / f"out{suffix}", tmp_path / f"single{suffix}"
    monkeypatch.setattr(patch_module.mended_parts, "__defaults__", (block_rows,))
    monkeypatch.setattr(writer_module, "_COPIED_BYTES", 50)
    predict(path, run, on_error)
    for failed in ({1, 2, 30}, set[int]()):
        summary = again(path, Model(run, failed))
        predict(single, run, on_error, failed)
        assert path.read_bytes() == single.read_bytes()
        told, records = read_beside(path)
        assert (told.fill, rows_of(records)) == (read_beside(single)[0].fill, sorted(failed))
        assert (summary.ledger["failed"], summary.ledger["written"]) == (len(failed), ROWS - len(failed))
        single.unlink()
    assert {file.name for file in tmp_path.iterdir()} == {path.name, ledger_path(path).name, ledger_path(single).name}


@pytest.mark.parametrize("suffix", LINES)
def test_lines_that_are_not_as_they_were_written_stay_as_they_are(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    predict(path, one, "skip")
    written = path.read_bytes()
    lines = written.splitlines(keepends=True)
    header = len(lines) - (ROWS - len(FAILED))

    def refuses(data: bytes, words: str, run: Callable[[Any], Any] = one) -> None:
        path.write_bytes(data)
        with pytest.raises(PredictionFailedError, match=words) as caught:
            again(path, Model(run, set()))
        assert str(caught.value.error).endswith(f"; {path} is as it was")
        assert path.read_bytes() == data

    refuses(b"".join(lines[:-1]), "has 31 rows, the file beside it says 32; predict all rows again with --force")
    refuses(written[:-1], "row 31 of the file is not as it was written")
    refuses(b"".join([*lines, lines[-1]]), "row 32 of the file is not as it was written")
    for odd in (b"words\n", b'{"row":0,words}\n'):
        refuses(b"".join([*lines[:header], odd, *lines[header:]]), "row 0 of the file is not as it was written")
    refuses(written, "do not fit it: their outputs have other names or shapes", numbers)
    refuses(written, "do not fit it: their outputs have other names or shapes", lambda rows: one(rows)[:, :1])


@pytest.mark.parametrize("on_error", POLICIES)
@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_nulls_in_columns_that_are_kept_stay_when_rows_are_mended(
    tmp_path: Path, suffix: str, on_error: OnError
) -> None:
    """In rows that are written already, in those that are put among them, and in those that fail again."""
    gone = {1, 4, 17, 18, 25}
    ids = [None if row in gone else row for row in range(ROWS)]
    names = [None if row in gone else f"n{row}" for row in range(ROWS)]
    source = from_arrays({"x": np.arange(ROWS), "id": np.array(ids, object), "name": np.array(names, object)})
    run = RunOptions(quiet=True, keep=["id", "name"])
    head = JournalHead(*HEAD, on_error, keep=run.keep)
    paths = [tmp_path / f"{name}{suffix}" for name in ("mended", "whole")]
    for path, bad in zip(paths, (FAILED, {17, 30}), strict=True):
        sink = open_sink(path, ROWS, False, mask=on_error == "fill")
        client = cast("Client", Model(numbers, bad))
        predict_to_sink(client, ["m"], source, sink, head, run, KeptColumns(source, run.keep))
    with finished_output(paths[0]) as finished:
        predict_failed(cast("Client", Model(numbers, {17, 30})), ["m"], source, finished, head, run)
    if suffix == ".parquet":
        mended, whole = map(pq.read_table, paths)
        assert mended.schema.equals(whole.schema)
        assert repr(mended.to_pydict()) == repr(whole.to_pydict())
        assert mended["id"].null_count >= 4
    else:
        assert paths[0].read_bytes() == paths[1].read_bytes()


def test_text_of_fixed_width_keeps_its_width(tmp_path: Path) -> None:
    def labels(rows: Any) -> Any:
        return {"label": np.array([f"w{row}" for row in rows], "U8"), "code": np.array([b"ab"] * len(rows))}

    path = tmp_path / "out.npz"
    predict(path, labels, "fill")
    again(path, Model(labels, set()))
    check(path, labels, set(), "fill")
    with np.load(path) as arrays:
        assert (arrays["label"].dtype, arrays["code"].dtype) == (np.dtype("U8"), np.dtype("S2"))


def test_models_and_outputs_of_several_levels(tmp_path: Path) -> None:
    def both(rows: Any) -> Any:
        return {"a": numbers(rows), "b": one(rows)}

    for suffix in (".npz", ".zarr", ".parquet"):
        path = tmp_path / suffix[1:] / f"out{suffix}"
        path.parent.mkdir()
        predict(path, both, "skip")
        again(path, Model(both, {9}))
        check(path, both, {9}, "skip")
    assert isinstance(zarr.open(str(tmp_path / "zarr" / "out.zarr"), mode="r")["a/deep"], zarr.Array)


def test_adjacent_rows_of_one_record_are_mended_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.npy"
    predict(path, one, "fill", {5, 6, 7, 8, 9})
    told, _ = read_beside(path)
    failures_path(path).write_bytes(msgspec.json.encode(record(5, 10)) + b"\n")
    ledger_path(path).write_bytes(msgspec.json.encode(msgspec.structs.replace(told, failures=1)))
    monkeypatch.setattr(patch_module.patched_parts, "__defaults__", (16,))
    again(path, Model(one, {5, 6, 8}))
    check(path, one, {5, 6, 8}, "fill")


def test_an_output_made_anew_has_no_marks_of_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "out.npy"
    predict(path, one, "fill")
    path.unlink()
    predict(path, one, "skip")
    check(path, one, FAILED, "skip")


def test_an_output_named_as_the_mark_is_mended(tmp_path: Path) -> None:
    def flags(rows: Any) -> Any:
        return {"failed": rows % 2 == 0, "label": rows.astype(np.uint8)}

    for suffix in (".npz", ".zarr", ".parquet"):
        path = tmp_path / suffix[1:] / f"out{suffix}"
        path.parent.mkdir()
        summary = predict(path, flags, "fill")
        assert summary.fill == Fill("failed_rows", {"failed": False, "label": 255})
        again(path, Model(flags, {9, 39}))
        found = read_table(path, set()) if suffix in (".parquet", ".feather") else READERS[suffix](path)
        assert take_marks(path, found, "failed_rows") == [9, 39]
        np.testing.assert_array_equal(found["label"], filled(flags(np.arange(ROWS))["label"], [9, 39]))


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("suffix", READABLE)
@pytest.mark.parametrize(
    ("run", "bad", "end", "kind", "words"),
    [
        (one, ROWS, None, RowsFailedError, "no row was predicted; "),
        (one, 0, KeyboardInterrupt(), JobCancelledError, "interrupted: job 3f2a90bc41d7 was cancelled"),
        (one, 0, InputError("the file is gone"), InputError, "the file is gone; "),
        (numbers, 0, None, OutputError, "do not fit it: they have 3 outputs, not 1"),
        (
            lambda rows: one(rows)[:, :1],
            0,
            None,
            OutputError,
            r"output.* rows of float32 \(1,\), not float32 \(2,\)",
        ),
        (lambda rows: one(rows).astype(float), 0, None, OutputError, r"of float64 \(2,\), not float32 \(2,\)"),
    ],
)
def test_whatever_goes_wrong_leaves_the_output_as_it_was(
    tmp_path: Path,
    suffix: str,
    run: Callable[[Any], Any],
    bad: int,
    end: BaseException | None,
    kind: type[CeleriacError],
    words: str,
) -> None:
    path, model = tmp_path / f"out{suffix}", Model(run, set(range(bad)), end=end)
    predict(path, one, "skip")
    before = content(tmp_path)
    with pytest.raises(PredictionFailedError, match=words) as caught:
        again(path, model)
    assert isinstance(caught.value.error, kind)
    assert str(caught.value.error).endswith(f"; {path} is as it was")
    assert caught.value.summary.output is None
    assert model.cancelled
    assert content(tmp_path) == before


def test_other_models_predict_no_row(tmp_path: Path) -> None:
    predict(tmp_path / "out.npy", one, "skip")
    model = Model(one, set())
    model.digests = {"m": "0000"}
    with pytest.raises(PredictionFailedError, match="model m has changed since this command began") as caught:
        again(tmp_path / "out.npy", model)
    assert isinstance(caught.value.error, ModelError)


@pytest.mark.parametrize(
    ("head", "rows", "words"),
    [
        (
            JournalHead({"path": "other.npy"}, HEAD[1], "skip"),
            ROWS,
            r"input has changed \(path: rows.npy before, other",
        ),
        (JournalHead(HEAD[0], {"m": "0000"}, "skip"), ROWS, r"models are not the same \(m@9f3c before, m@0000 now\)"),
        (JournalHead(*HEAD, "fill"), ROWS, r"treated otherwise \(--on-error skip before, fill now\)"),
        (JournalHead(*HEAD, "skip"), ROWS + 1, r"input has changed \(rows: 40 before, 41 now\)"),
    ],
)
def test_another_piece_of_work_is_refused_with_the_reason(
    tmp_path: Path, head: JournalHead, rows: int, words: str
) -> None:
    predict(tmp_path / "out.npy", one, "skip")
    with finished_output(tmp_path / "out.npy") as finished:
        finished.check_same(from_arrays(np.arange(ROWS)), JournalHead(*HEAD, "skip"))
        with pytest.raises(OutputError, match=f"out.npy: cannot be continued: .*{words}"):
            finished.check_same(from_arrays(np.arange(rows)), head)


def refused(path: Path) -> str:
    with pytest.raises(OutputError) as caught, finished_output(path):
        pass
    text = str(caught.value)
    assert text.startswith(str(path))
    assert "\n" not in text
    return text


def test_what_cannot_be_mended_is_refused_before_any_work(tmp_path: Path) -> None:
    path = tmp_path / "out.npy"
    assert "is not there" in refused(path)
    np.save(path, np.arange(3))
    assert f"what became of its rows is not known: No such file or directory: {ledger_path(path)}" in refused(path)
    path.unlink()

    predict(path, one, "fill")
    failures_path(path).write_bytes(failures_path(path).read_bytes().splitlines(keepends=True)[0])
    assert "are not of the same run" in refused(path)
    failures_path(path).write_bytes(b"{}")
    assert "is not known: Object missing required field" in refused(path)
    failures_path(path).unlink()
    assert f"No such file or directory: {failures_path(path)}" in refused(path)


def test_an_output_of_other_rows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "out.npy"
    predict(path, one, "skip")
    np.save(path, np.load(path)[1:])
    with pytest.raises(PredictionFailedError, match="has 31 rows, the file beside it says 32"):
        again(path, Model(one, set()))


def test_two_processes_never_mend_one_output(tmp_path: Path) -> None:
    path = tmp_path / "out.npy"
    predict(path, one, "skip")
    with finished_output(path):
        assert "another process is writing it" in refused(path)
    with finished_output(path) as finished:
        assert pick(finished.failed(), slice(0, 2)).tolist() == [0, 1]


def test_a_clean_run_leaves_no_failures_of_an_earlier_one(tmp_path: Path) -> None:
    path = tmp_path / "out.npy"
    predict(path, one, "skip")
    path.unlink()
    predict(path, one, "skip", set())
    assert not failures_path(path).exists()
    told, records = read_beside(path)
    assert (told.failures, records, told.on_error, told.models) == (0, [], "skip", {"m": "9f3c"})
    assert ledger_path(path).read_text().startswith('{\n  "job": "3f2a90bc41d7",\n')
