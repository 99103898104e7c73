"""`Client.predict_to`: outputs from Python are the same as by the command: continued, refused and told of alike."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from producer import Client, Summary
from producer.rows.part import Part
from producer.sinks import Sink
from tests.held import holding, write_held_models
from tests.manifests import write_manifest
from tests.output_sets import assert_same, files_of
from tests.systems import REPOSITORY, System, serving, shared_folders
from tests.waiting import wait_until
from worker_config.errors import InputError, OutputError, RowsFailedError, UnknownModelError, UsageError

ROWS, CHUNK_ROWS = 1_000, 100
# A row whose first value is so fails.
BAD = -1.0
HELD = 42.0

STEPS = """
import numpy as np


def scored(rows):
    x = np.asarray(rows["x"] if isinstance(rows, dict) else rows)
    if (x[:, 0] == -1).any():
        raise ValueError("a bad row")
    return {"double": x * 2, "text": np.array([f"é {row[1]:.3f}" for row in x], object)}


def one(rows):
    return scored(rows)["double"]
"""


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("p")
    (folder / "steps.py").write_text(STEPS)
    (folder / "out").mkdir()
    entries: dict[str, object] = {name: {"path": f"steps:{name}", "batch_rows": 50} for name in ("scored", "one")}
    environ = {**shared_folders(folder), "CELERIAC_OUTPUT_ROOTS": str(folder / "out")}
    manifest = write_manifest(folder, {**entries, **write_held_models(folder)})
    with serving(folder, manifest, environ=environ) as system:
        yield system


@pytest.fixture
def out(system: System, request: pytest.FixtureRequest) -> Path:
    folder = system.folder / "out" / str(abs(hash(request.node.name)))
    folder.mkdir()
    return folder


def values(*bad: int) -> np.ndarray:
    x = np.random.default_rng(7).random((ROWS, 4), np.float32)
    x[list(bad), 0] = BAD
    return x


def table(*bad: int) -> pa.Table:
    x = pa.FixedSizeListArray.from_arrays(pa.array(values(*bad).ravel()), 4)
    return pa.table({"x": x, "id": [f"id {row}" for row in range(ROWS)]})


def written(path: Path, *bad: int) -> Path:
    pq.write_table(table(*bad), path)
    return path


def ledger_of(summary: Summary) -> dict[str, Any]:
    """What stands beside an output and does not change from one run to the next."""
    told: dict[str, Any] = json.loads(Path(str(summary.ledger_path)).read_text())
    counts = {name: count for name, count in told["ledger"].items() if not name.startswith("chunks_")}
    return {**told, "ledger": counts, "job": None, "seconds": None}


def beside(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


KINDS = [".npy", ".npz", ".parquet", ".feather", ".csv", ".jsonl", ".zarr", ".parquet/", ".npy/", ".zarr/"]

# --- the same as by the command -------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", KINDS)
def test_each_kind_of_output_is_that_of_the_command(client: Client, system: System, out: Path, suffix: str) -> None:
    bad = [3, 250]
    data, model = written(out / "rows.parquet", *bad), "one" if suffix.startswith(".np") else "scored"
    keep = {"keep": ["row", "id"]} if suffix in (".npz", ".parquet", ".parquet/") else {}
    summary = client.predict_to(
        f"{out}/py{suffix}", model, data, columns="x", chunk_rows=CHUNK_ROWS, on_error="skip", part_mib=1, **keep
    )
    words = ["--columns", "x", "--chunk-rows", str(CHUNK_ROWS), "--on-error", "skip", "--part-mib", "1"]
    words += ["--keep", "row,id"] if keep else []
    done = system.celeriac("predict", model, data, "-o", f"{out}/sh{suffix}", *words, "--json")
    assert done.returncode == 0, done.stderr
    ours, theirs = (out / f"{name}{suffix.rstrip('/')}" for name in ("py", "sh"))
    assert files(ours) == files(theirs)
    told = json.loads(done.stdout.splitlines()[-1])
    assert summary.output == str(ours)
    assert summary.failures == told["failures"] == len(bad)
    assert ledger_of(summary) == ledger_of(by_command(told))
    assert Path(str(summary.failures_path)).read_text() == Path(f"{theirs}.failures.jsonl").read_text()


def by_command(told: dict[str, Any]) -> Summary:
    return Summary(job=None, ledger={}, seconds=0.0, output=told["output"], error=None)


def files(path: Path) -> dict[str, Any]:
    """All of an output: of files the bytes, of a Zarr store what its bytes were before they were made small."""
    if path.suffix == ".zarr":
        return files_of(path)
    found = sorted(path.iterdir()) if path.is_dir() else [path]
    return {file.name if path.is_dir() else "": file.read_bytes() for file in found}


def test_data_at_hand_are_written_as_those_of_a_file(client: Client, out: Path) -> None:
    data = written(out / "rows.parquet")
    client.predict_to(out / "of_file.jsonl", "scored", data, columns=["x"], keep="id")
    client.predict_to(out / "of_table.jsonl", "scored", table(), columns=["x"], keep="id")
    client.predict_to(out / "of_frame.jsonl", "scored", table().to_pandas(), columns=["x"], keep="id")
    for name in ("of_table", "of_frame"):
        assert (out / f"{name}.jsonl").read_bytes() == (out / "of_file.jsonl").read_bytes(), name
    client.predict_to(f"{out}/of_array.npy/", ["one"], values())
    client.predict_to(out / "of_rows.npy", ["one"], iter(values()))
    assert_same(out / "of_array.npy", out / "of_rows.npy")
    np.testing.assert_array_equal(np.load(out / "of_rows.npy"), values() * 2)


def test_nothing_is_said_unless_it_is_asked_for(
    client: Client,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("producer.job.progress_bar.LINE_SECONDS", 0.0)
    summary = client.predict_to(out / "a.npy", "one", values())
    assert summary.failures_path is None
    assert tuple(capfd.readouterr()) == ("", "")
    assert [one for one in caplog.records if one.levelno >= logging.WARNING] == []
    client.predict_to(out / "a.npy", "one", values(), show_progress=True, force=True)
    assert f"{ROWS:,} of {ROWS:,} rows" in capfd.readouterr().err


# --- continued ------------------------------------------------------------------------------------------------------

PROGRAM = """
import sys
from celeriac import Client
from producer.sinks import opening

opening.open_sink.__kwdefaults__["sync_seconds"] = 0.0  # every part is safe when it has come
url, output, data = sys.argv[1:]
Client(url).predict_to(output, "held", data, chunk_rows=50)
"""


@pytest.mark.parametrize("suffix", [".npy", ".npy/"])
@pytest.mark.parametrize("by", ["python", "command"])
def test_a_killed_program_is_continued(client: Client, system: System, out: Path, suffix: str, by: str) -> None:
    rows = values()
    rows[ROWS // 2 :, 0] = HELD
    np.save(out / "rows.npy", rows)
    output, journal = f"{out}/set{suffix}", out / ".set.npy.journal"
    with holding(system.folder, HELD):
        words = [sys.executable, "-c", PROGRAM, system.url, output, str(out / "rows.npy")]
        program = subprocess.Popen(words, env=system.environ(), cwd=REPOSITORY)
        try:
            wait_until(
                lambda: program.poll() is not None or (journal.exists() and journal.read_bytes().count(b"\n") > 3),
                "rows are safe",
            )
            assert program.poll() is None
        finally:
            program.kill()
            program.wait()
    if by == "python":
        with pytest.raises(OutputError, match=r"would be lost; continue it with resume=True, or begin .* force=True$"):
            client.predict_to(output, "held", out / "rows.npy")
        ledger = client.predict_to(output, "held", out / "rows.npy", resume=True).ledger
    else:
        done = system.celeriac("predict", "held", out / "rows.npy", "-o", output, "--resume", "--json")
        assert done.returncode == 0, done.stderr
        ledger = json.loads(done.stdout.splitlines()[-1])["ledger"]
    held = 2 * 50 if suffix == ".npy/" else 0  # chunks that two children had, whose parts prove what they are
    assert 0 < ledger["resumed"] <= ROWS // 2 + held
    assert (ledger["rows"], ledger["written"]) == (ROWS, ROWS)
    client.predict_to(out / "whole.npy", "held", rows)
    if suffix == ".npy/":
        assert_same(out / "set.npy", out / "whole.npy")
    else:
        assert (out / "set.npy").read_bytes() == (out / "whole.npy").read_bytes()
    assert not [name for name in beside(out) if name.startswith(".")]


def stops_after(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """The third part ends the run."""
    write = Sink.write

    def ends(sink: Sink, part: Part) -> None:
        write(sink, part)
        if part.index == 2:
            raise error

    monkeypatch.setattr(Sink, "write", ends)


def test_rows_at_hand_are_continued_unless_they_have_changed(
    client: Client, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, path = values(), out / "a.parquet"
    with monkeypatch.context() as patch:
        stops_after(patch, RowsFailedError("ended"))
        with pytest.raises(RowsFailedError, match=r"ended; 300 rows are safe beside .*; continue with resume=True$"):
            client.predict_to(path, "one", rows, chunk_rows=CHUNK_ROWS)
    other = rows.copy()
    other[-1] += 1
    with pytest.raises(OutputError, match=r"its input has changed .* go on with accept_changes=True, else start over"):
        client.predict_to(path, "one", other, resume=True)
    with pytest.raises(OutputError, match=r"\(on_error raise before, fill now\), .*; continue with on_error skip, or"):
        client.predict_to(path, "one", rows, resume=True, on_error="fill")
    summary = client.predict_to(path, "one", other, resume=True, accept_changes=True, on_error="skip")
    assert summary.ledger["resumed"] == 300
    assert [change.partition(" (")[0] for change in summary.accepted_changes] == ["its input has changed"]
    np.testing.assert_array_equal(np.stack(pq.read_table(path).column(1).to_numpy()), other * 2)


def test_an_interrupt_is_one_and_says_what_is_safe(client: Client, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        stops_after(patch, KeyboardInterrupt())
        with pytest.raises(
            KeyboardInterrupt, match=r"was cancelled; .* 300 rows are safe .*; continue with resume=True"
        ):
            client.predict_to(out / "a.npy", "one", values(), chunk_rows=CHUNK_ROWS)
    assert not client._jobs
    assert client.predict_to(out / "a.npy", "one", values(), resume=True).ledger["resumed"] == 300


@pytest.mark.parametrize("suffix", [".npy", ".npy/"])
def test_what_cannot_be_told_from_other_rows_is_not_continued_and_leaves_nothing(
    client: Client, out: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    with pytest.raises(UsageError, match="cannot be resumed: it is read in order and has no path"):
        client.predict_to(f"{out}/a{suffix}", "one", iter(values()), resume=True)
    with monkeypatch.context() as patch:
        stops_after(patch, RowsFailedError("ended"))
        with pytest.raises(RowsFailedError, match=r"^ended$"):
            client.predict_to(f"{out}/a{suffix}", "one", iter(values()), chunk_rows=CHUNK_ROWS)
    wait_until(lambda: not beside(out), "nothing is left")


# --- refused --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "options", "error", "words"),
    [
        ("there.npy", {}, OutputError, r"there.npy: exists; use force=True to replace it$"),
        ("there.npy", {"resume": True}, OutputError, r"complete; nothing is left to continue; use force=True to begin"),
        ("a.docx", {}, OutputError, r"files of type '.docx' cannot be written"),
        ("a.npz/", {}, OutputError, "a folder of such files cannot be written"),
        ("gone/a.npy", {}, OutputError, "gone"),
        ("/etc/outside.npy/", {}, UsageError, "may not write there: it is under no folder of their CELERIAC_OUTPUT"),
        ("a.csv", {"keep": ["name"]}, InputError, "name"),
        ("a.npy", {"models": ["one", "held"]}, OutputError, "but there are 2 models: one, held; use .npz"),
        ("a.npy", {"keep": ["id"]}, UsageError, "has no place for columns beside the predictions"),
        ("a.csv", {"accept_changes": True}, UsageError, "accept_changes and only_failed are for resume=True"),
        ("a.csv", {"only_failed": True, "resume": True}, OutputError, "predict it without only_failed=True$"),
        ("a.csv", {"only_failed": True, "resume": True, "force": True}, UsageError, "leave force and max_failed out"),
        ("a.csv", {"max_failed": 3}, UsageError, "max_failed is for on_error"),
        ("a.csv", {"on_error": "skip", "max_failed": "many"}, UsageError, "max_failed is 'many'"),
        ("a.csv", {"part_mib": 0}, UsageError, "the least is 1"),
        ("a.csv", {"priority": "urgent"}, UsageError, "urgent"),
        ("a.csv", {"models": "ones"}, UnknownModelError, r"did you mean 'one'"),
        ("a.csv", {"data": "gone.npy"}, InputError, "gone.npy"),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_nothing(
    client: Client, out: Path, output: str, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    (out / "there.npy").write_bytes(b"there")
    options = {"models": "one", "data": table(), **options}
    if isinstance(options["data"], pa.Table):
        options["columns"] = "x"
    with pytest.raises(error, match=words):
        client.predict_to(output if output[0] == "/" or ":" in output else f"{out}/{output}", **options)
    assert beside(out) == {"there.npy"}
    assert (out / "there.npy").read_bytes() == b"there"
    assert not client._jobs


def test_rows_that_fail_are_told_as_the_policy_says(client: Client, out: Path) -> None:
    data = values(5, 700)
    with pytest.raises(RowsFailedError, match=r"row 5 failed at infer: .* a bad row$"):
        client.predict_to(out / "a.npy", "one", data, chunk_rows=CHUNK_ROWS)
    with pytest.raises(RowsFailedError, match=r"2 rows failed, at most 1 may \(max_failed\)"):
        client.predict_to(out / "b.npy", "one", data, on_error="fill", max_failed=1, chunk_rows=CHUNK_ROWS)
    summary = client.predict_to(out / "c.npy", "one", data, on_error="fill", max_failed="1%")
    assert (summary.failures, summary.ledger["failed"], summary.ledger["predicted"]) == (2, 2, ROWS - 2)
    rows = [json.loads(line)["start"] for line in Path(str(summary.failures_path)).read_text().splitlines()]
    assert rows == [5, 700]
    assert np.isnan(np.load(out / "c.npy")).any(axis=1).nonzero()[0].tolist() == [5, 700]
    assert np.load(out / "c.npy.failed.npy").nonzero()[0].tolist() == [5, 700]


def test_rows_that_failed_are_mended_at_their_place(client: Client, out: Path) -> None:
    path = out / "a.parquet"
    client.predict_to(path, "one", values(5, 700), on_error="skip", chunk_rows=CHUNK_ROWS)
    with pytest.raises(OutputError, match=r"its input has changed .* go on with accept_changes=True, else start over"):
        client.predict_to(path, "one", values(), resume=True, only_failed=True)
    summary = client.predict_to(path, "one", values(), resume=True, only_failed=True, accept_changes=True)
    assert (summary.failures, summary.ledger["predicted"], summary.ledger["resumed"]) == (0, ROWS, ROWS - 2)
    whole = pq.read_table(path)
    assert whole["row"].to_pylist() == list(range(ROWS))
    np.testing.assert_array_equal(np.stack(whole.column(1).to_numpy()), values() * 2)


def test_a_frame_with_nulls_and_columns_that_no_model_takes_is_known_again(
    client: Client, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, days = out / "a.jsonl", np.arange(ROWS).astype("datetime64[s]")
    some = [None if row == 900 else list(one) for row, one in enumerate(values())]
    x = pa.array(some, pa.list_(pa.float32(), 4))
    rows, more = pa.table({"x": x, "day": days}), {"columns": "x", "keep": "day", "on_error": "skip"}
    with monkeypatch.context() as patch:
        stops_after(patch, RowsFailedError("ended"))
        with pytest.raises(RowsFailedError, match="300 rows are safe"):
            client.predict_to(path, "one", rows, chunk_rows=CHUNK_ROWS, **more)
    other = pa.table({"x": x, "day": days + 1})
    with pytest.raises(OutputError, match=r"its input has changed \(XXH3 of the rows: "):
        client.predict_to(path, "one", other, resume=True, **more)
    summary = client.predict_to(path, "one", rows, resume=True, **more)
    assert (summary.ledger["resumed"], summary.failures) == (300, 1)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["row"] for line in lines] == [row for row in range(ROWS) if row != 900]
