"""Failed rows of outputs that workers have written are mended: in their files, whatever ends who does it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from producer import Client
from producer.outputs.only_failed import finished_output, predict_failed
from producer.outputs.run_options import RunOptions
from producer.outputs.sidecar_files import failures_path, read_beside
from producer.outputs.summary import PredictionFailedError, Summary
from producer.sinks import JournalHead
from producer.sinks.final_files import manifest_path
from producer.sinks.mending import mended_files
from producer.sources import open_source
from tasks.outputs.failed_mask import mask_path
from tasks.protocol.messages import OnError
from tests.output_sets import assert_same, names_in, read_folder
from tests.split_writes import ROWS, predict, stepped, writing
from tests.systems import System
from worker_config.errors import OutputError

# Whole chunks at the beginning, in the middle and at the end, so that files lack all rows of these; and single rows.
FAILED = [*range(300), 700, *range(768, 1_024), 1_300, *range(2_700, ROWS)]
# Those that fail once more.
STILL = [0, 700, 800, 2_999]

STEPS = """
import pathlib

import numpy as np

HERE = pathlib.Path(__file__).parent


def meet(rows):
    bad = {int(row) for row in (HERE / "bad").read_text().split()}
    if bad.intersection(np.asarray(rows["n"]).tolist()):
        raise ValueError("a bad row")
    return np.asarray(rows["n"])


def kinds(numbers):
    texts = np.array([b"\\x00\\xff" * int(n % 3) for n in numbers], object)
    return {"double": numbers * 2.5, "pair": np.stack([numbers, -numbers], 1).astype(np.int16), "raw": texts}


def one(numbers):
    return numbers.astype(np.float32) / 7
"""


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("m")
    (folder / "bad").touch()
    with writing(folder, stepped("kinds", "one", drops_rows=False), STEPS) as system:
        yield system


def data() -> Any:
    return pa.table({"n": np.arange(ROWS, dtype=np.float64), "id": [f"id {row}" for row in range(ROWS)]})


class Case:
    """An output of one model, written with some rows that fail."""

    def __init__(self, system: System, client: Client, model: str, on_error: OnError, keep: Sequence[str]) -> None:
        self.bad, self.client, self.model = system.folder / "bad", client, model
        self.on_error, self.keep = on_error, keep

    def write(self, path: Path, bad: Sequence[int], *, in_parts: bool = True) -> Summary:
        self.bad.write_text(" ".join(map(str, bad)))
        options: dict[str, Any] = {"on_error": self.on_error, "keep": self.keep, "in_parts": in_parts}
        return predict(self.client, self.model, data(), path, part_bytes=1, **options)  # a file of each part

    def mend(self, path: Path, bad: Sequence[int]) -> Summary:
        self.bad.write_text(" ".join(map(str, bad)))
        source = open_source(data())
        with finished_output(path) as finished:
            digests = self.client.digests([self.model])
            head = JournalHead(source={"name": "data"}, models=digests, on_error=self.on_error, keep=self.keep)
            finished.check_same(source, head)
            run = RunOptions(quiet=True, keep=self.keep, chunk_rows=100)
            return predict_failed(self.client, [self.model], source, finished, head, run)


@pytest.fixture
def case(system: System, client: Client) -> Case:
    return Case(system, client, "kinds", "skip", ["id"])


@pytest.mark.parametrize("on_error", ["skip", "fill"])
@pytest.mark.parametrize(
    ("model", "suffix"), [("kinds", ".parquet"), ("kinds", ".feather"), ("kinds", ".jsonl"), ("one", ".csv")]
)
def test_rows_come_to_their_place_in_their_files(
    system: System, client: Client, out: Path, model: str, suffix: str, on_error: OnError
) -> None:
    case = Case(system, client, model, on_error, ["id"])
    folder, file = out / f"set{suffix}", out / f"file{suffix}"
    case.write(folder, FAILED)
    manifest = json.loads((out / f"set{suffix}.manifest.json").read_text())
    untouched = [folder / one["name"] for one in manifest["files"] if one["start"] > 1_300 and one["stop"] <= 2_700]
    before = [path.stat().st_ino for path in untouched]
    for bad in (STILL, []):
        summary = case.mend(folder, bad)
        case.write(file, bad, in_parts=False)
        assert_same(folder, file)
        assert (summary.ledger["failed"], summary.ledger["predicted"]) == (len(bad), ROWS - len(bad))
        told, records = read_beside(folder)
        assert [record.start for record in records] == bad
        assert told.fill == read_beside(file)[0].fill
        file.unlink()
    assert [path.stat().st_ino for path in untouched] == before != [], "these had no failed rows"
    assert not failures_path(folder).exists()


@pytest.mark.parametrize("suffix", [".npy", ".zarr"])
@pytest.mark.parametrize("on_error", ["skip", "fill"])
def test_arrays_are_mended_with_their_marks(
    system: System, client: Client, out: Path, on_error: OnError, suffix: str
) -> None:
    case = Case(system, client, "one", on_error, [])
    folder = out / f"set{suffix}"
    case.write(folder, FAILED)
    for number, bad in enumerate((STILL, [])):
        case.mend(folder, bad)
        file = out / f"file{number}{suffix}"
        case.write(file, bad, in_parts=False)
        assert_same(folder, file)
        rows = ROWS - len(bad) * (on_error == "skip")
        assert json.loads(manifest_path(folder).read_text())["rows"] == rows
        if on_error == "fill" and suffix == ".npy":
            assert mask_path(folder).read_bytes() == mask_path(file).read_bytes()


class _DiedError(BaseException):
    """In the place of a kill."""


@pytest.mark.parametrize("step", range(9))
def test_whoever_dies_on_the_way_leaves_one_output_or_the_other(
    case: Case, out: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """After each of the steps that change names; until the first rename the output is as it was."""
    folder, file = out / "set.parquet", out / "file.parquet"
    case.write(folder, FAILED)
    old = read_folder(folder)
    case.write(file, [], in_parts=False)
    steps = iter(range(100))
    replace, write_whole, rename = Path.replace, mended_files.write_whole, Path.rename

    def dies(do: Any) -> Any:
        def counted(*args: Any) -> Any:
            if "set.parquet" in str(args[0]) and next(steps) == step:
                raise _DiedError
            return do(*args)

        return counted

    with monkeypatch.context() as patch:
        patch.setattr(mended_files.MendedFiles, "abort", lambda _: None)  # which a kill does not do
        commit = mended_files.MendedFiles.commit

        def patched(self: mended_files.MendedFiles) -> None:
            patch.setattr(Path, "replace", dies(replace))
            patch.setattr(Path, "rename", dies(rename))
            patch.setattr(mended_files, "write_whole", dies(write_whole))
            commit(self)

        patch.setattr(mended_files.MendedFiles, "commit", patched)
        with pytest.raises(_DiedError):
            case.mend(folder, [])
    got = read_folder(folder)
    if step <= 1:
        assert got.equals(old)
        case.mend(folder, [])
    else:
        rows = got["row"].to_pylist()
        assert rows == sorted(set(rows)), "each file is whole"
        assert set(old["row"].to_pylist()) <= set(rows)
        # Whoever opens it next completes it, so that nothing is left to mend.
        with pytest.raises(OutputError, match="no row of it has failed"):
            case.mend(folder, [])
    assert_same(folder, file)


def test_what_was_left_half_done_never_comes_into_another_output(
    case: Case, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, file = out / "set.parquet", out / "file.parquet"
    case.write(folder, FAILED)
    with monkeypatch.context() as patch:
        patch.setattr(mended_files, "complete", lambda _: None)
        case.mend(folder, [])
    assert (out / ".set.parquet.mended").is_dir()
    case.keep = ["n"]
    predict(case.client, "kinds", data(), folder, on_error="skip", keep=["n"], force=True, part_bytes=15_000)
    case.write(file, [], in_parts=False)
    assert_same(folder, file)


def test_rows_that_fail_again_leave_all_as_it_was(case: Case, out: Path) -> None:
    folder = out / "set.parquet"
    case.write(folder, FAILED)
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in out.rglob("*") if path.is_file()}
    with pytest.raises(PredictionFailedError, match=r"no row was predicted; .*set.parquet is as it was"):
        case.mend(folder, FAILED)
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in out.rglob("*") if path.is_file()} == before


def test_an_output_that_is_not_as_it_was_written_is_left_alone(case: Case, out: Path) -> None:
    folder = out / "set.parquet"
    case.write(folder, FAILED)
    manifest = out / "set.parquet.manifest.json"
    whole = manifest.read_bytes()
    for text, told in (
        (b"{", "which files it has is not known"),
        (whole.replace(b"true", b"false"), "is not complete; continue with --resume"),
        (whole.replace(b"part-00001", b"../../part"), "names files of no output"),
    ):
        manifest.write_bytes(text)
        with pytest.raises(OutputError, match=told):
            case.mend(folder, [])
    manifest.write_bytes(whole)
    last = folder / names_in(folder)[-1]
    last.rename(out / "away")
    with pytest.raises(OutputError, match="is gone, or another file than it was"):
        case.mend(folder, [])
    (out / "away").rename(last)
    (folder / "part-99999.parquet").touch()
    with pytest.raises(OutputError, match=r"part-99999\.parquet is no file of it"):
        case.mend(folder, [])
    assert json.loads(whole)["complete"]
