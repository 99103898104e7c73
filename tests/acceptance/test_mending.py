"""Failed rows whose cause was mended, in a function, a model or the input: a whole output, and a word of the change."""

from __future__ import annotations

import json
import re
import signal
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.acceptance.commands import Celeriac, Ended
from tests.manifests import write_manifest
from tests.models import in_one_process
from tests.waiting import wait_until
from worker_config.errors import ExitCode

ROWS = 24
# What the first function cannot read, and the second one can; what none can.
COMMA, BROKEN = 5, 17
AGAIN = ("--resume", "--only-failed")

# Rows are numbers as text, or paths of files that have one. It notes what it reads, and waits where `wait` is.
STEPS = """
import pathlib
import time

import numpy as np

HERE = pathlib.Path(__file__).parent


def read(rows):
    rows = rows["numbers"] if isinstance(rows, dict) else rows
    texts = [pathlib.Path(row).read_text() if row.endswith(".txt") else row for row in rows]
    with (HERE / "read.log").open("a") as log:
        log.writelines(f"{text}\\n" for text in texts)
    while (HERE / "wait").exists():
        time.sleep(0.01)
    return np.array([float(text) for text in texts], np.float32)


def double(values):
    return values * 2
"""


@pytest.fixture
def celeriac(celeriac: Celeriac) -> Celeriac:
    """A folder of files and a table with the same rows, of which two cannot be read; `numbers` needs no TensorFlow."""
    (celeriac.folder / "steps.py").write_text(STEPS)
    functions = {"preprocess": "steps:read", "postprocess": "steps:double"}
    write_manifest(celeriac.folder, {"numbers": functions})
    (celeriac.folder / "rows").mkdir()
    for row in range(ROWS):
        write_row(celeriac, row, {COMMA: "5,5", BROKEN: "broken"}.get(row, str(row)))
    write_table(celeriac)
    return celeriac


def write_row(celeriac: Celeriac, row: int, text: str) -> None:
    (celeriac.folder / "rows" / f"{row:02}.txt").write_text(text)


def write_table(celeriac: Celeriac, rows: int = ROWS) -> None:
    """As the files are."""
    texts = [(celeriac.folder / "rows" / f"{row:02}.txt").read_text() for row in range(rows)]
    names = [f"row {row}" for row in range(rows)]
    pq.write_table(pa.table({"id": names, "numbers": texts}), celeriac.folder / "rows.parquet", row_group_size=5)


def mend_function(celeriac: Celeriac) -> None:
    (celeriac.folder / "steps.py").write_text(STEPS.replace("float(text)", 'float(text.replace(",", "."))'))


def mend_rows(celeriac: Celeriac) -> None:
    write_row(celeriac, COMMA, "5.5")
    write_row(celeriac, BROKEN, "17")
    write_table(celeriac)


def mend_both(celeriac: Celeriac) -> None:
    mend_function(celeriac)
    write_row(celeriac, BROKEN, "17")
    write_table(celeriac)


def command(data: str, output: str, *words: object, models: str = "numbers") -> list[str]:
    columns = ["--columns", "numbers"] if data.endswith(".parquet") else []
    words = ("-o", output, "--json", "--workers", 1, "--chunk-rows", 6, *columns, *words)
    return ["predict", models, data, *map(str, words)]


def read_log(celeriac: Celeriac) -> list[str]:
    """What was read since the last call."""
    log = celeriac.folder / "read.log"
    texts = log.read_text().split() if log.exists() else []
    log.unlink(missing_ok=True)
    return texts


def begin(celeriac: Celeriac, data: str, output: str, *words: object, failed: int = 2) -> dict[str, bytes]:
    """A finished output of which rows failed; what is in the folder then."""
    ended = celeriac.succeeds(*command(data, output, "--on-error", *words))
    assert ended.json["ledger"]["failed"] == failed
    read_log(celeriac)
    return files(celeriac)


def files(celeriac: Celeriac) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in celeriac.folder.glob("out.*") if path.is_file()}


def check_whole(celeriac: Celeriac, ended: Ended, data: str, output: str, *words: object) -> None:
    """The output is what a single run gives, and all that says what became of the rows agrees."""
    single = f"single{Path(output).suffix}"
    celeriac.succeeds(*command(data, single, *words))
    assert (celeriac.folder / output).read_bytes() == (celeriac.folder / single).read_bytes()
    told = json.loads((celeriac.folder / f"{output}.ledger.json").read_text())
    ledger = ended.json["ledger"]
    assert (told["ledger"], told["accepted_changes"]) == (ledger, ended.json["accepted_changes"])
    assert (ledger["predicted"], ledger["written"], ledger["failed"]) == (ROWS, ROWS, 0)
    assert not (celeriac.folder / f"{output}.failures.jsonl").exists()
    fresh = json.loads((celeriac.folder / f"{single}.ledger.json").read_text())
    assert (told["models"], told["source"], told["sources"]) == (fresh["models"], fresh["source"], fresh["sources"])


FUNCTION = "its models are not the same (numbers@"
FUNCTIONS = " now): steps:read, steps:double changed"
FILES = "modified since: 05.txt, 17.txt)"


@pytest.mark.parametrize(
    ("data", "output", "policy", "mend", "words", "changes"),
    [
        ("rows", "out.npy", "skip", mend_rows, [FILES], 1),
        ("rows.parquet", "out.parquet", "fill", mend_rows, ["its input has changed (", "modified: "], 1),
        ("rows", "out.npz", "skip", mend_both, ["modified since: 17.txt), and " + FUNCTION, FUNCTIONS], 2),
    ],
)
def test_what_was_mended_is_told_and_with_accept_changes_the_output_is_whole(
    celeriac: Celeriac,
    data: str,
    output: str,
    policy: str,
    mend: Callable[[Celeriac], None],
    words: list[str],
    changes: int,
) -> None:
    before = begin(celeriac, data, output, policy)
    mend(celeriac)

    line = celeriac.refuses(ExitCode.USAGE, *command(data, output, *AGAIN))
    assert f"{output}: cannot be continued: " in line
    assert all(word in line for word in words)
    assert "go on with --accept-changes, else start over with --force" in line
    assert files(celeriac) == before

    ended = celeriac.succeeds(*command(data, output, *AGAIN, "--accept-changes"))

    accepted = ended.json["accepted_changes"]
    assert len(accepted) == changes
    assert all(change.endswith(f"; {ROWS - 2} rows are from before") for change in accepted)
    assert all(word in "; 22 rows are from before, and ".join(accepted) or word in line for word in words)
    assert sorted(read_log(celeriac)) == sorted(["5,5" if mend is mend_both else "5.5", "17"])
    check_whole(celeriac, ended, data, output, "--on-error", policy)


def test_a_change_that_mends_only_some_rows_leaves_the_others_recorded(celeriac: Celeriac) -> None:
    begin(celeriac, "rows", "out.npy", "fill")
    mend_function(celeriac)
    line = celeriac.refuses(ExitCode.USAGE, *command("rows", "out.npy", *AGAIN))
    assert FUNCTION in line
    assert FUNCTIONS in line

    ended = celeriac.succeeds(*command("rows", "out.npy", *AGAIN, "--accept-changes"))

    assert set(read_log(celeriac)) == {"5,5", "broken"}
    assert (ended.json["ledger"]["failed"], ended.json["failures"]) == (1, 1)
    (record,) = (celeriac.folder / "out.npy.failures.jsonl").read_text().splitlines()
    assert json.loads(record)["start"] == BROKEN
    np.testing.assert_array_equal(np.flatnonzero(np.load(celeriac.folder / "out.npy.failed.npy")), [BROKEN])
    before = files(celeriac)
    write_row(celeriac, BROKEN, "worse")  # which mends nothing

    ended = celeriac.run(*command("rows", "out.npy", *AGAIN, "--accept-changes"))

    assert ended.code == ExitCode.ROWS_FAILED
    celeriac.check_one_line(ended)
    assert ended.lines[0].endswith("out.npy is as it was")
    assert files(celeriac) == before
    write_row(celeriac, BROKEN, "17")
    ended = celeriac.succeeds(*command("rows", "out.npy", *AGAIN, "--accept-changes"))
    functions, data = ended.json["accepted_changes"]
    assert functions.startswith(FUNCTION)
    assert functions.endswith(f"{FUNCTIONS}; 22 rows are from before")
    assert data.endswith("modified since: 17.txt); 23 rows are from before")
    check_whole(celeriac, ended, "rows", "out.npy", "--on-error", "fill")


def test_another_number_of_rows_or_other_kept_columns_cannot_be_accepted(celeriac: Celeriac) -> None:
    before = begin(celeriac, "rows.parquet", "out.parquet", "skip", "--keep", "id")
    again = command("rows.parquet", "out.parquet", *AGAIN, "--accept-changes")
    for words, kept in [([], "none"), (["--keep", "id,row"], "--keep id,row"), (["--keep", "row"], "--keep row")]:
        line = celeriac.refuses(ExitCode.USAGE, *again, *words)
        assert f"the columns of the input that it keeps are others (--keep id before, {kept} now); start over" in line
    for rows in (ROWS - 1, ROWS + 1):
        write_row(celeriac, ROWS, "24")
        write_table(celeriac, rows)
        line = celeriac.refuses(ExitCode.USAGE, *again, "--keep", "id")
        assert f"its input has changed (rows: {ROWS} before, {rows} now); start over with --force" in line
    assert files(celeriac) == before


def write_records(celeriac: Celeriac, rows: int = ROWS) -> None:
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(celeriac.folder / "rows.tfrecord")) as writer:
        for row in range(rows):
            writer.write((celeriac.folder / "rows" / f"{row:02}.txt").read_bytes())


def test_rows_more_than_before_are_found_where_a_file_does_not_say_how_many_it_has(celeriac: Celeriac) -> None:
    steps = celeriac.folder / "steps.py"
    steps.write_text(STEPS.replace("in rows]", "in map(bytes.decode, rows)]"))
    write_records(celeriac)
    before = begin(celeriac, "rows.tfrecord", "out.npy", "skip")
    mend_rows(celeriac)
    write_row(celeriac, ROWS, "24")
    write_records(celeriac, ROWS + 1)
    again = command("rows.tfrecord", "out.npy", *AGAIN)
    assert "go on with --accept-changes" in celeriac.refuses(ExitCode.USAGE, *again)
    line = celeriac.refuses(ExitCode.USAGE, *again, "--accept-changes")
    assert f"its input has changed (rows: {ROWS} before, {ROWS + 1} now); start over with --force" in line
    assert files(celeriac) == before
    write_records(celeriac)
    assert celeriac.succeeds(*again, "--accept-changes").json["ledger"]["failed"] == 0
    np.testing.assert_array_equal(np.load(celeriac.folder / "out.npy")[COMMA], 11)


def test_a_model_file_that_was_written_again_is_told_by_its_digest(celeriac: Celeriac, models: Path) -> None:
    path = celeriac.folder / "digits.keras"
    path.write_bytes((models / "digits.keras").read_bytes())
    write_manifest(celeriac.folder, {"digits": path})
    rows = np.random.default_rng(3).random((ROWS, 64), np.float32)
    whole = rows.copy()
    rows[[COMMA, BROKEN], 7] = np.nan
    np.save(celeriac.folder / "rows.npy", rows)
    words = command("rows.npy", "out.npy", "--on-nonfinite", "fail", models="digits")
    assert celeriac.succeeds(*words, "--on-error", "skip").json["ledger"]["failed"] == 2
    np.save(celeriac.folder / "rows.npy", whole)
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b"the same weights, saved once more"

    line = celeriac.refuses(ExitCode.USAGE, *words, *AGAIN)
    assert re.search(r", and its models are not the same \(digits@\w+ before, digits@\w+ now\); if that is meant", line)
    ended = celeriac.succeeds(*words, *AGAIN, "--accept-changes")

    assert len(ended.json["accepted_changes"]) == 2
    expected = in_one_process(models / "digits.keras", whole)
    np.testing.assert_allclose(np.load(celeriac.folder / "out.npy"), expected, rtol=1e-4, atol=1e-6)


def killed_while_it_waits(celeriac: Celeriac, words: list[str]) -> None:
    """Start a command, and kill it while its worker reads rows."""
    log = celeriac.folder / "read.log"
    read_log(celeriac)
    (celeriac.folder / "wait").touch()
    running = celeriac.start(*words)
    # Taken away before it is written, the log would be lost.
    wait_until(lambda: running.check_running() or (log.exists() and log.stat().st_size), "rows are read")
    running.signal(signal.SIGKILL)
    wait_until(lambda: not celeriac.processes(), "its worker has ended, too")
    (celeriac.folder / "wait").unlink()
    read_log(celeriac)


def test_a_mending_that_is_killed_leaves_the_output_as_it_was_and_is_done_again(celeriac: Celeriac) -> None:
    before = begin(celeriac, "rows", "out.npy", "skip")
    mend_both(celeriac)
    words = command("rows", "out.npy", *AGAIN, "--accept-changes")
    killed_while_it_waits(celeriac, words)
    assert files(celeriac) == before
    ended = celeriac.succeeds(*words)
    assert sorted(read_log(celeriac)) == ["17", "5,5"]
    assert len(ended.json["accepted_changes"]) == 2
    check_whole(celeriac, ended, "rows", "out.npy")


def test_changes_that_were_accepted_need_not_be_once_more_by_a_run_that_goes_on(celeriac: Celeriac) -> None:
    write_row(celeriac, COMMA, "5")
    write_table(celeriac)
    words = command("rows.parquet", "out.parquet", "--keep", "id")
    ended = celeriac.run(*words)
    assert (ended.code, ended.safe_rows) == (ExitCode.ROWS_FAILED, 12), ended
    write_row(celeriac, BROKEN, "17")
    write_table(celeriac)
    assert "go on with --accept-changes" in celeriac.refuses(ExitCode.USAGE, *words, "--resume")
    other = command("rows.parquet", "out.parquet", "--keep", "row,id", "--resume", "--accept-changes")
    line = celeriac.refuses(ExitCode.USAGE, *other)
    assert "keeps are others (--keep id before, --keep row,id now); start over with --force" in line
    killed_while_it_waits(celeriac, [*words, "--resume", "--accept-changes"])

    ended = celeriac.succeeds(*words, "--resume")

    (change,) = ended.json["accepted_changes"]
    assert change.endswith("; 12 rows are from before")
    assert sorted(map(int, read_log(celeriac))) == list(range(12, ROWS))
    check_whole(celeriac, ended, "rows.parquet", "out.parquet", "--keep", "id")
    assert pq.read_table(celeriac.folder / "out.parquet")["id"].to_pylist() == [f"row {row}" for row in range(ROWS)]


@pytest.mark.parametrize(("output", "policy"), [("out.parquet", "skip"), ("out.npz", "fill")])
def test_kept_columns_stay_beside_their_rows(celeriac: Celeriac, output: str, policy: str) -> None:
    keep = ["--keep", "id,row"]
    begin(celeriac, "rows.parquet", output, policy, *keep)
    mend_function(celeriac)
    again = command("rows.parquet", output, *AGAIN, "--accept-changes", *keep)
    assert celeriac.succeeds(*again).json["ledger"]["failed"] == 1
    mend_both(celeriac)
    check_whole(celeriac, celeriac.succeeds(*again), "rows.parquet", output, *keep, "--on-error", policy)
