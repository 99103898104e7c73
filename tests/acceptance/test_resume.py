"""`predict --resume`: whatever ended a run, what was safe is not done again, and the output is that of a single run."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import struct
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from producer.rows.part import Part
from producer.sinks import JournalHead, open_sink
from producer.sources import fingerprint
from tasks.models.model_version import model_digest
from tests.acceptance.commands import Celeriac, Ended, Running, read_all
from tests.held import holding, write_held_models
from tests.manifests import write_manifest
from tests.systems import System, serving
from tests.waiting import wait_until
from worker_config.errors import ExitCode

ROWS = 60
# A file is missing for this row: in chunks of ten, those before are safe.
MISSING, SAFE = 33, 30
# Of a run that is held in the middle.
HELD_CHUNK = 64
HELD_ROWS = 16 * HELD_CHUNK
# After which rows are brought to the disk when more come.
NOTED_SECONDS = 1.0


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, special_models: Path) -> Iterator[System]:
    """A worker of one child, which takes chunks in their order; `reads` and `cubes` are the same model."""
    folder = tmp_path_factory.mktemp("s")
    reads = {"path": special_models / "reads", "allow_file_operations": True}
    paths = {"reads": reads, "cubes": reads}
    with serving(folder, write_manifest(folder, {**paths, **write_held_models(folder)}), 1) as system:
        yield system


# --- a data set of paths, one of which leads nowhere for a while ------------------------------------------------------


def number_file(celeriac: Celeriac, row: int) -> Path:
    return celeriac.root / "numbers" / f"{row}.txt"


def write_paths(celeriac: Celeriac, name: str, missing: int = MISSING, rows: int = ROWS) -> None:
    """A data set of the paths of files that hold their row's number; the one of `missing` is not there."""
    (celeriac.root / "numbers").mkdir()
    for row in set(range(rows)) - {missing}:
        number_file(celeriac, row).write_text(str(row))
    save_paths(celeriac.folder / name, [str(number_file(celeriac, row)) for row in range(rows)])


def save_paths(path: Path, paths: list[str]) -> None:
    if path.suffix == ".npy":
        np.save(path, np.array(paths))
    elif path.suffix == ".parquet":
        pq.write_table(pa.table({"paths": paths}), path, row_group_size=7)
    elif path.suffix == ".tfrecord":
        save_records(path, paths)
    else:
        path.mkdir()
        for start in range(0, len(paths), 20):
            pq.write_table(pa.table({"paths": paths[start : start + 20]}), path / f"{start:02}.parquet")


def save_records(path: Path, paths: list[str]) -> None:
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(path)) as writer:
        for text in paths:
            writer.write(text.encode())


def predict_paths(system: System, data: str, output: str, *words: object, models: str = "reads") -> list[str]:
    command = ["predict", models, data, "-o", output, "--broker", system.url, "--json", "--chunk-rows", "10"]
    return [*command, *map(str, words)]


def fails_in_the_middle(celeriac: Celeriac, words: list[str]) -> Ended:
    """Run a command that ends at the missing file; what came before is kept, and it says so."""
    ended = celeriac.run(*words)
    assert ended.code == ExitCode.ROWS_FAILED, ended
    celeriac.check_one_line(ended)
    assert f"{MISSING}.txt; No such file" in ended.lines[0]
    assert ended.safe_rows == SAFE
    assert ended.json["error"] == ended.lines[0].removeprefix("celeriac: ")
    assert (ended.json["output"], ended.json["ledger"]["failed"]) == (None, 1)
    return ended


def content(path: Path) -> dict[str, bytes]:
    files = path.rglob("*") if path.is_dir() else [path]
    return {str(file.relative_to(path)): file.read_bytes() for file in files if file.is_file()}


@pytest.mark.parametrize(
    ("data", "models", "output"),
    [
        ("paths.npy", "reads", "out.npy"),
        ("paths.tfrecord", "reads", "out.npy"),
        ("paths.parquet", "reads", "out.parquet"),
        ("paths.tfrecord", "reads,cubes", "out.npz"),
        ("paths.npy", "reads,cubes", "out.zarr"),
        ("parts", "reads,cubes", "out.jsonl"),
        ("paths.parquet", "reads,cubes", "out.npz"),
    ],
)
def test_any_data_set_into_any_output_is_continued_to_what_a_single_run_gives(
    celeriac: Celeriac, system: System, data: str, models: str, output: str
) -> None:
    write_paths(celeriac, data)
    predict = predict_paths(system, data, output, models=models)
    fails_in_the_middle(celeriac, predict)
    assert celeriac.visible_names() == {data}

    number_file(celeriac, MISSING).write_text("33")
    ended = celeriac.succeeds(*predict, "--chunk-rows", "7", "--compression", "lz4", "--resume")

    ledger = ended.json["ledger"]
    assert (ledger["rows"], ledger["predicted"], ledger["written"]) == (ROWS, ROWS, ROWS)
    assert (ledger["resumed"], ledger["chunks_sent"]) == (SAFE, 5)  # 30 rows, 7 at a time
    assert f"{ROWS - SAFE} rows predicted in" in ended.stdout
    assert f"after {SAFE} by an earlier run" in ended.stdout
    assert celeriac.visible_names() == {data, output}
    celeriac.succeeds(*predict_paths(system, data, f"single{Path(output).suffix}", models=models))
    assert content(celeriac.folder / output) == content(celeriac.folder / f"single{Path(output).suffix}")
    if output == "out.npy":
        np.testing.assert_array_equal(np.load(celeriac.folder / output)[:, 0], np.arange(ROWS))


def test_a_run_that_fails_again_and_again_comes_further_each_time(celeriac: Celeriac, system: System) -> None:
    write_paths(celeriac, "paths.npy")
    predict = predict_paths(system, "paths.npy", "out.npy", "--resume")  # with nothing to continue, it begins
    fails_in_the_middle(celeriac, predict)
    ended = fails_in_the_middle(celeriac, predict)
    assert ended.json["ledger"]["resumed"] == SAFE

    number_file(celeriac, MISSING).write_text("33")
    number_file(celeriac, 51).unlink()
    assert celeriac.run(*predict).safe_rows == 50
    number_file(celeriac, 51).write_text("51")
    assert celeriac.succeeds(*predict).json["ledger"]["resumed"] == 50
    np.testing.assert_array_equal(np.load(celeriac.folder / "out.npy")[:, 0], np.arange(ROWS))


def test_rows_that_are_mended_in_the_data_are_other_data(celeriac: Celeriac, system: System) -> None:
    write_paths(celeriac, "paths.npy")
    predict = predict_paths(system, "paths.npy", "out.npy")
    fails_in_the_middle(celeriac, predict)
    paths = [str(number_file(celeriac, row)) for row in range(ROWS)]
    save_paths(celeriac.folder / "paths.npy", [*paths[:MISSING], paths[0], *paths[MISSING + 1 :]])

    line = celeriac.refuses(ExitCode.USAGE, *predict, "--resume")
    assert "out.npy: cannot be continued: its input has changed (modified: " in line
    assert line.endswith("start over with --force instead of --resume")

    assert "go on with --accept-changes" in line
    line = celeriac.refuses(ExitCode.USAGE, *predict)
    assert f"out.npy: {SAFE} rows that an earlier run has saved beside it would be lost; continue it with" in line

    ended = celeriac.run(*predict, "--force")
    assert ended.code == ExitCode.OK, ended
    celeriac.check_one_line(ended)
    assert f"{SAFE} rows that an earlier run left beside " in ended.lines[0]
    assert ended.json["ledger"]["resumed"] == 0
    np.testing.assert_array_equal(np.load(celeriac.folder / "out.npy")[30:36, 0], [30, 31, 32, 0, 34, 35])


def test_a_mended_row_is_gone_on_with_where_the_change_is_accepted_and_noted(
    celeriac: Celeriac, system: System
) -> None:
    write_paths(celeriac, "paths.npy")
    predict = predict_paths(system, "paths.npy", "out.npy")
    fails_in_the_middle(celeriac, predict)
    paths = [str(number_file(celeriac, row)) for row in range(ROWS)]
    save_paths(celeriac.folder / "paths.npy", [*paths[:MISSING], paths[0], *paths[MISSING + 1 :]])

    ended = celeriac.succeeds(*predict, "--resume", "--accept-changes")

    (change,) = ended.json["accepted_changes"]
    assert change.startswith(("its input has changed (bytes: ", "its input has changed (modified: "))
    assert change.endswith(f"; {SAFE} rows are from before")
    assert ended.json["ledger"]["resumed"] == SAFE
    told = json.loads((celeriac.folder / "out.npy.ledger.json").read_text())
    assert told["accepted_changes"] == [change]
    np.testing.assert_array_equal(np.load(celeriac.folder / "out.npy")[30:36, 0], [30, 31, 32, 0, 34, 35])


def test_quiet_drops_what_an_earlier_run_has_left_without_a_word(celeriac: Celeriac, system: System) -> None:
    write_paths(celeriac, "paths.npy")
    predict = predict_paths(system, "paths.npy", "out.npy", "--quiet")
    fails_in_the_middle(celeriac, predict)
    number_file(celeriac, MISSING).write_text("33")
    assert celeriac.succeeds(*predict, "--force").json["ledger"]["resumed"] == 0


def test_a_complete_output_is_not_continued_and_force_concerns_nothing_else(celeriac: Celeriac, system: System) -> None:
    write_paths(celeriac, "paths.npy")
    predict = predict_paths(system, "paths.npy", "out.npy")
    (celeriac.folder / "out.npy").write_bytes(b"from before")
    line = celeriac.refuses(ExitCode.USAGE, *predict, "--resume")
    assert line.endswith("out.npy: exists, complete; nothing is left to continue; use --force to begin again")

    fails_in_the_middle(celeriac, [*predict, "--force"])
    assert (celeriac.folder / "out.npy").read_bytes() == b"from before"
    assert celeriac.refuses(ExitCode.USAGE, *predict, "--resume").endswith("exists; use --force to replace it")
    number_file(celeriac, MISSING).write_text("33")
    assert celeriac.succeeds(*predict, "--resume", "--force").json["ledger"]["resumed"] == SAFE
    assert np.load(celeriac.folder / "out.npy").shape == (ROWS, 3)


def test_a_source_that_breaks_off_keeps_the_rows_before(celeriac: Celeriac, system: System) -> None:
    write_paths(celeriac, "paths.tfrecord", missing=-1)
    data = celeriac.folder / "paths.tfrecord"
    data.write_bytes(data.read_bytes()[:-5])
    predict = predict_paths(system, "paths.tfrecord", "out.npy")
    ended = celeriac.run(*predict)
    assert (ended.code, ended.safe_rows) == (ExitCode.INPUT, ROWS - 1), ended
    assert "is cut short; copy or write the file again; 59 rows are safe" in ended.lines[0]

    assert celeriac.run(*predict, "--resume").safe_rows == ROWS - 1
    with data.open("ab") as stream:
        stream.write(b"more")
    line = celeriac.refuses(ExitCode.USAGE, *predict, "--resume")
    assert "its input has changed (bytes: " in line


def test_a_full_disk_costs_only_the_rows_that_did_not_fit(celeriac: Celeriac, system: System) -> None:
    (celeriac.root / "numbers").mkdir()
    number_file(celeriac, 7).write_text("7")
    save_paths(celeriac.folder / "paths.tfrecord", 2_000 * [str(number_file(celeriac, 7))])  # 24,000 bytes of output
    predict = predict_paths(system, "paths.tfrecord", "out.npy", "--chunk-rows", 100)
    program = celeriac.program
    celeriac.program = celeriac.root / "on-a-full-disk"
    celeriac.program.write_text(f'#!/bin/sh\nulimit -f 12\nexec {program} "$@"\n')  # 512 or 1,024 bytes each
    celeriac.program.chmod(0o755)
    ended = celeriac.run(*predict)
    assert ended.code == ExitCode.USAGE, ended
    assert "out.npy: cannot be written: File too large" in ended.lines[0]
    assert 0 < ended.safe_rows < 2_000

    celeriac.program = program
    assert celeriac.succeeds(*predict, "--resume").json["ledger"]["resumed"] == ended.safe_rows
    np.testing.assert_array_equal(np.load(celeriac.folder / "out.npy"), np.full((2_000, 3), [7, 49, 343]))


def test_the_bar_begins_where_the_earlier_run_ended(celeriac: Celeriac, system: System) -> None:
    write_paths(celeriac, "paths.npy")
    predict = predict_paths(system, "paths.npy", "out.npy")
    fails_in_the_middle(celeriac, predict)
    number_file(celeriac, MISSING).write_text("33")
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    try:
        running = celeriac.start(*predict, "--resume", stderr=theirs)
    finally:
        os.close(theirs)
    shown = read_all(ours)
    assert running.end().code == ExitCode.OK
    assert f"{SAFE}/{ROWS}" in shown
    assert f"| 0/{ROWS}" not in shown
    assert f"{ROWS}/{ROWS}" in shown


# --- killed in the middle ---------------------------------------------------------------------------------------------


def held_rows() -> np.ndarray:
    """Of which those of the second quarter can be held by 42, and those of the second half by 43."""
    rows = np.random.default_rng(5).random((HELD_ROWS, 4), np.float32)
    rows[HELD_ROWS // 4 :, 0], rows[HELD_ROWS // 2 :, 0] = 42, 43
    return rows


@contextmanager
def half_done(celeriac: Celeriac, folder: Path, *words: object, **environ: str) -> Iterator[Running]:
    """A run with rows that are safe, and many that are held; `folder` is where the worker finds its function."""
    np.save(celeriac.folder / "rows.npy", held_rows())
    with holding(folder, 42) as let_go:
        running = celeriac.start(*predict_held(), *words, **environ)
        wait_until(lambda: running.check_running() or journal_of(celeriac), "rows come")
        came = time.monotonic()
        wait_until(lambda: time.monotonic() - came > NOTED_SECONDS, "what comes next is noted with what came")
        with holding(folder, 43):
            let_go()
            wait_until(lambda: running.check_running() or journal_of(celeriac).count(b"\n") > 1, "rows are safe")
            yield running


def predict_held() -> list[str]:
    return ["predict", "held", "rows.npy", "-o", "out.npy", "--chunk-rows", str(HELD_CHUNK), "--json"]


def journal_of(celeriac: Celeriac) -> bytes:
    journal = celeriac.folder / ".out.npy.journal"
    return journal.read_bytes() if journal.exists() else b""


def check_continued(celeriac: Celeriac, ended: Ended) -> None:
    ledger = ended.json["ledger"]
    assert 0 < ledger["resumed"] < HELD_ROWS
    assert ledger["chunks_answered"] == (HELD_ROWS - ledger["resumed"]) // HELD_CHUNK
    assert (ledger["predicted"], ledger["written"]) == (HELD_ROWS, HELD_ROWS)
    np.testing.assert_array_equal(np.load(celeriac.folder / "out.npy"), held_rows() * 2)
    assert celeriac.visible_names() == {"rows.npy", "out.npy"}


def test_a_killed_embedded_run_is_continued(celeriac: Celeriac) -> None:
    at = ["--models", write_manifest(celeriac.root, write_held_models(celeriac.root))]
    functions = {"PYTHONPATH": str(celeriac.root)}
    with half_done(celeriac, celeriac.root, *at, **functions) as running:
        running.signal(signal.SIGKILL)
        celeriac.check_nothing_is_left({".out.npy.journal", ".out.npy.part"})
    assert celeriac.visible_names() == {"rows.npy"}
    with (celeriac.folder / ".out.npy.journal").open("ab") as journal:
        journal.write(b'5e0f0b71 {"start": 0, "st')  # what was being noted when the power went

    check_continued(celeriac, celeriac.succeeds(*predict_held(), *at, "--resume", **functions))


def test_an_interrupted_run_is_continued_and_meanwhile_nobody_else_writes_its_output(
    celeriac: Celeriac, system: System
) -> None:
    at = ["--broker", system.url]
    with half_done(celeriac, system.folder, *at) as running:
        for words in ([], ["--resume"], ["--force"]):
            other = celeriac.start(*predict_held(), *at, *words).end()
            assert other.code == ExitCode.USAGE
            assert "out.npy: another process is writing it; wait for that one" in other.lines[0]
        running.signal(signal.SIGINT)
    ended = running.end()
    assert ended.code == ExitCode.CANCELLED, ended
    celeriac.check_one_line(ended)
    assert f"of {HELD_ROWS} rows were predicted; {ended.safe_rows} rows are safe beside" in ended.lines[0]
    assert ended.safe_rows % HELD_CHUNK == 0 < ended.safe_rows
    celeriac.check_nothing_is_left({".out.npy.journal", ".out.npy.part"})
    assert celeriac.kept_by(ended) == {".out.npy.journal", ".out.npy.part"}

    ended_well = celeriac.succeeds(*predict_held(), *at, "--resume")
    check_continued(celeriac, ended_well)
    assert ended_well.json["ledger"]["resumed"] == ended.safe_rows


# --- what can be told without a worker: that of this manifest could not start -----------------------------------------


def left_half_done(celeriac: Celeriac, data: str, rows: int = 5) -> list[str]:
    """What a run with a model that no worker can load would leave, and the command."""
    (celeriac.folder / "broken.keras").write_bytes(b"this is not a model")
    (celeriac.folder / "models.toml").write_text('[models.broken]\npath = "broken.keras"\n')
    digests = {"broken": model_digest(celeriac.folder / "broken.keras")}
    head = JournalHead(source=fingerprint(celeriac.folder / data), models=digests)
    with open_sink(celeriac.folder / "out.npy", 12, False, journal=head) as sink:
        sink.write(Part(0, 0, rows, np.arange(rows)))
    return ["predict", "broken", data, "-o", "out.npy", "--json", "--resume"]


def write_numbers(path: Path, rows: int = 12) -> None:
    if path.suffix:
        np.save(path, np.arange(rows))
    else:
        path.mkdir()
        for part in range(rows // 3):
            pq.write_table(pa.table({"x": [part] * 3}), path / f"{part}.parquet")


def touch(folder: Path) -> None:
    status = (folder / "rows.npy").stat()
    os.utime(folder / "rows.npy", ns=(status.st_atime_ns, status.st_mtime_ns + 1))


def write_more(folder: Path) -> None:
    write_numbers(folder / "rows.npy", 13)


def add_a_file(folder: Path) -> None:
    pq.write_table(pa.table({"x": [1]}).slice(0, 0), folder / "parts" / "9.parquet")


def train_again(folder: Path) -> None:
    (folder / "broken.keras").write_bytes(b"this is not a model either")


@pytest.mark.parametrize(
    ("data", "change", "words"),
    [
        ("rows.npy", touch, "its input has changed (modified: "),
        ("rows.npy", write_more, "its input has changed (rows: 12 before, 13 now)"),
        ("parts", add_a_file, "its input has changed (files: 4 before, 5 now; bytes: "),
        ("rows.npy", train_again, "its models are not the same (broken@"),
    ],
)
def test_other_data_and_other_models_are_refused_with_the_reason(
    celeriac: Celeriac, data: str, change: Callable[[Path], None], words: str
) -> None:
    write_numbers(celeriac.folder / data)
    command = left_half_done(celeriac, data)
    change(celeriac.folder)
    line = celeriac.refuses(ExitCode.USAGE, *command)
    assert f"out.npy: cannot be continued: {words}" in line
    assert line.endswith("start over with --force instead of --resume")


def test_a_worker_that_does_not_come_up_leaves_the_rows_safe(celeriac: Celeriac) -> None:
    write_numbers(celeriac.folder / "rows.npy")
    line = celeriac.refuses(ExitCode.MODEL, *left_half_done(celeriac, "rows.npy"))
    assert "model broken cannot be loaded" in line
    assert line.endswith(f"; 5 rows are safe beside {celeriac.folder / 'out.npy'}; continue with --resume")


def test_an_output_that_lacks_only_its_name_needs_no_worker(celeriac: Celeriac) -> None:
    write_numbers(celeriac.folder / "rows.npy")
    ended = celeriac.succeeds(*left_half_done(celeriac, "rows.npy", rows=12))
    assert "0 rows predicted in" in ended.stdout
    assert (ended.json["job"], ended.json["output"]) == (None, str(celeriac.folder / "out.npy"))
    counts = {name: count for name, count in ended.json["ledger"].items() if count}
    assert counts == dict.fromkeys(["rows", "predicted", "written", "resumed"], 12)
    np.testing.assert_array_equal(np.load(celeriac.folder / "out.npy"), np.arange(12))
