"""`predict --on-error skip|fill`: a row that fails costs itself alone, is told beside the output, and can be mended."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from producer.records import job_store
from producer.records.job_store import JobState
from tasks.protocol import keys
from tasks.protocol.messages import FailureRecord, pack
from tasks.protocol.records import JobRecord
from tests.acceptance.commands import Celeriac, Ended
from tests.failed_rows import filled, rows_of, take_marks
from tests.manifests import write_manifest
from tests.seals import SEALER
from tests.sink_outputs import READERS
from tests.systems import System, serving
from worker_config.errors import ExitCode

ROWS = 60
MISSING = [0, 7, 8, 33, 59]
POLICIES = ["skip", "fill"]


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, special_models: Path) -> Iterator[System]:
    """A worker of one child, which takes chunks in their order; the rows of `reads` and `cubes` are paths of files."""
    folder = tmp_path_factory.mktemp("s")
    reads = {"path": special_models / "reads", "allow_file_operations": True}
    paths = {"reads": reads, "cubes": reads}
    with serving(folder, write_manifest(folder, paths), 1) as system:
        yield system


def number_file(celeriac: Celeriac, row: int) -> Path:
    return celeriac.root / "numbers" / f"{row}.txt"


@pytest.fixture
def celeriac(celeriac: Celeriac) -> Celeriac:
    """Files that hold their row's number, but for those of `MISSING`; `rows.npy` and `rows.parquet` have all paths."""
    (celeriac.root / "numbers").mkdir()
    for row in set(range(ROWS)) - set(MISSING):
        mend(celeriac, row)
    paths = [str(number_file(celeriac, row)) for row in range(ROWS)]
    np.save(celeriac.folder / "rows.npy", np.array(paths))
    pq.write_table(pa.table({"paths": paths}), celeriac.folder / "rows.parquet")
    return celeriac


def mend(celeriac: Celeriac, *rows: int) -> None:
    for row in rows:
        number_file(celeriac, row).write_text(str(row))


def predict(at: list[str], output: str, *words: object, models: str = "reads", data: str = "rows.npy") -> list[str]:
    command = ["predict", models, data, "-o", output, *at, "--json", "--chunk-rows", "10"]
    return [*command, *map(str, words)]


def powers() -> np.ndarray:
    """What the model gives for all rows, were their files there."""
    rows = np.arange(ROWS, dtype=np.float32)
    return np.stack([rows, rows**2, rows**3], axis=1)


def check_output(celeriac: Celeriac, output: str, failed: list[int], policy: str) -> None:
    path = celeriac.folder / output
    whole = powers()
    expected = filled(whole, failed) if policy == "fill" else np.delete(whole, failed, axis=0)
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        kept = np.delete(np.arange(ROWS), failed) if policy == "skip" else np.arange(ROWS)
        assert table["row"].to_pylist() == kept.tolist()
        found = {name: np.array(table[name].to_pylist()) for name in table.column_names if name != "row"}
    elif path.suffix in (".csv", ".jsonl"):
        numbers, found = read_lines(path)
        assert numbers == [row for row in range(ROWS) if policy == "fill" or row not in failed]
    else:
        found = READERS[path.suffix](path)
    assert take_marks(path, found) == (failed if policy == "fill" else None)
    (array,) = found.values()
    np.testing.assert_array_equal(array.astype(np.float32), expected)


def read_lines(path: Path) -> tuple[list[int], dict[str, np.ndarray]]:
    """The rows' numbers, and their only output with the marks, if there are any."""
    with path.open(newline="") as file:
        lines = [json.loads(line) for line in file] if path.suffix == ".jsonl" else [*csv.DictReader(file)]
    numbers = [int(line.pop("row")) for line in lines]
    marks = [line.pop("failed") in (True, "true") for line in lines if "failed" in line]
    rows = [next(iter(line.values())) if path.suffix == ".jsonl" else [*line.values()] for line in lines]
    found = {"output": np.array(rows, object).astype(np.float32)}
    return numbers, found | ({"failed": np.array(marks)} if marks else {})


def check_beside(celeriac: Celeriac, ended: Ended, output: str, failed: list[int], policy: str) -> None:
    ledger = ended.json["ledger"]
    good = ROWS - len(failed)
    assert (ledger["rows"], ledger["predicted"], ledger["failed"], ledger["written"]) == (ROWS, good, len(failed), good)
    told = json.loads((celeriac.folder / f"{output}.ledger.json").read_text())
    assert (told["ledger"], told["on_error"], told["job"]) == (ledger, policy, ended.json["job"])
    assert list(told["models"]) == ["reads"]
    failures = celeriac.folder / f"{output}.failures.jsonl"
    if failed:
        records = msgspec.json.Decoder(FailureRecord).decode_lines(failures.read_bytes())
        assert rows_of(records) == failed
        assert told["failures"] == len(records)
        assert all(f"{row}.txt; No such file" in one.text for one, row in zip(records, failed, strict=False))
        assert f", {len(failed)} failed (see {failures}), written to {celeriac.folder / output}" in ended.stdout
    assert failures.exists() == bool(failed)
    names = {"rows.npy", "rows.parquet", output} | ({failures.name} if failed else set())
    names |= {f"{output}.failed.npy"} if policy == "fill" and output.endswith(".npy") else set()
    assert (told["fill"] is None) == (policy != "fill")
    assert celeriac.visible_names() == names


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    ("data", "output"),
    [
        ("rows.npy", "out.npy"),
        ("rows.parquet", "out.npz"),
        ("rows.npy", "out.zarr"),
        ("rows.parquet", "out.parquet"),
        ("rows.npy", "out.jsonl"),
        ("rows.parquet", "out.csv"),
    ],
)
def test_rows_that_fail_cost_themselves_and_are_mended_at_their_place(
    celeriac: Celeriac, at: list[str], policy: str, data: str, output: str
) -> None:
    command = predict(at, output, "--on-error", policy, data=data)
    ended = celeriac.succeeds(*command)
    check_beside(celeriac, ended, output, MISSING, policy)
    again = predict(at, output, "--resume", "--only-failed", data=data)
    check_output(celeriac, output, MISSING, policy)

    mend(celeriac, 0, 8)
    ended = celeriac.succeeds(*again)
    assert ended.json["ledger"]["resumed"] == ROWS - len(MISSING)
    assert "2 rows predicted in" in ended.stdout
    check_beside(celeriac, ended, output, [7, 33, 59], policy)
    check_output(celeriac, output, [7, 33, 59], policy)

    mend(celeriac, *MISSING)
    ended = celeriac.succeeds(*again, "--on-error", policy, "--chunk-rows", 1)
    check_beside(celeriac, ended, output, [], policy)
    check_output(celeriac, output, [], policy)
    assert "no row of it has failed" in celeriac.refuses(ExitCode.USAGE, *again)


def test_when_every_row_fails_again_the_output_stays_as_it_was(celeriac: Celeriac, at: list[str]) -> None:
    celeriac.succeeds(*predict(at, "out.npy", "--on-error", "fill"))
    mend(celeriac, 0)
    celeriac.succeeds(*predict(at, "out.npy", "--resume", "--only-failed"))
    before = {path.name: path.read_bytes() for path in celeriac.folder.iterdir()}
    ended = celeriac.run(*predict(at, "out.npy", "--resume", "--only-failed"))
    assert ended.code == ExitCode.ROWS_FAILED, ended
    assert f"no row was predicted; row 7 ({number_file(celeriac, 7)}) failed at" in ended.stderr
    told = celeriac.succeeds("failures", ended.json["job"], *at, "--json").json["failures"]
    assert [one["start"] for one in told] == [7, 8, 33, 59]
    celeriac.check_one_line(ended)
    assert ended.lines[0].endswith(f"; {celeriac.folder / 'out.npy'} is as it was")
    assert {path.name: path.read_bytes() for path in celeriac.folder.iterdir()} == before


@pytest.mark.parametrize(("budget", "kept"), [("5", True), ("9%", True), ("4", False), ("3%", False)])
def test_more_failed_rows_than_the_budget_end_the_job_and_a_larger_one_goes_on(
    celeriac: Celeriac, at: list[str], budget: str, kept: bool
) -> None:
    command = predict(at, "out.npy", "--on-error", "skip", "--max-failed")
    ended = celeriac.run(*command, budget)
    assert ended.code == (ExitCode.OK if kept else ExitCode.ROWS_FAILED), ended
    if not kept:
        celeriac.check_one_line(ended)
        assert not (celeriac.folder / "out.npy").exists()
        assert ended.safe_rows > 0
        ended = celeriac.succeeds(*command, "100%", "--resume")
        assert ended.json["ledger"]["resumed"] > 0
    check_beside(celeriac, ended, "out.npy", MISSING, "skip")
    check_output(celeriac, "out.npy", MISSING, "skip")


def test_a_run_that_goes_on_counts_what_failed_before_and_keeps_its_policy(celeriac: Celeriac, at: list[str]) -> None:
    command = predict(at, "out.npz", "--on-error", "skip")
    assert celeriac.run(*command, "--max-failed", "3").safe_rows > 0
    for other in ("fill", "raise"):
        line = celeriac.refuses(ExitCode.USAGE, *predict(at, "out.npz", "--on-error", other, "--resume"))
        assert f"treated otherwise (--on-error skip before, {other} now)" in line
    ended = celeriac.succeeds(*command, "--resume", "--chunk-rows", 7)
    check_beside(celeriac, ended, "out.npz", MISSING, "skip")


@pytest.mark.parametrize("output", ["out.npy", "out.parquet"])
def test_a_row_that_ended_a_run_is_left_out_or_filled_by_one_that_goes_on(
    celeriac: Celeriac, at: list[str], output: str
) -> None:
    mend(celeriac, 0, 7, 8)
    command = predict(at, output, "--job", f"once {output}")
    safe = celeriac.run(*command).safe_rows
    assert 0 < safe <= 30
    policy = "fill" if output == "out.npy" else "skip"
    ended = celeriac.succeeds(*command, "--on-error", policy)
    assert ended.json["ledger"]["resumed"] == safe
    check_beside(celeriac, ended, output, [33, 59], policy)
    check_output(celeriac, output, [33, 59], policy)


def test_a_clean_run_removes_what_an_earlier_one_told(celeriac: Celeriac, at: list[str]) -> None:
    celeriac.succeeds(*predict(at, "out.npy", "--on-error", "skip"))
    assert (celeriac.folder / "out.npy.failures.jsonl").exists()
    mend(celeriac, *MISSING)
    ended = celeriac.succeeds(*predict(at, "out.npy", "--force"))
    check_beside(celeriac, ended, "out.npy", [], "raise")


def test_other_data_and_other_models_are_not_mixed_in(celeriac: Celeriac, at: list[str]) -> None:
    celeriac.succeeds(*predict(at, "out.npy", "--on-error", "fill"))
    words = ("--resume", "--only-failed")
    line = celeriac.refuses(ExitCode.USAGE, *predict(at, "out.npy", *words, models="cubes"))
    assert "its models are not the same (reads@" in line
    line = celeriac.refuses(ExitCode.USAGE, *predict(at, "out.npy", *words, data="rows.parquet"))
    assert "its input has changed (path: " in line
    line = celeriac.refuses(ExitCode.USAGE, *predict(at, "out.npy", *words, "--on-error", "skip"))
    assert "treated otherwise (--on-error fill before, skip now)" in line
    np.save(celeriac.folder / "rows.npy", np.load(celeriac.folder / "rows.npy")[1:])
    assert "its input has changed (" in celeriac.refuses(ExitCode.USAGE, *predict(at, "out.npy", *words))


def test_failed_rows_whose_cause_was_mended_in_the_data_are_mended_where_that_is_accepted(
    celeriac: Celeriac, at: list[str]
) -> None:
    celeriac.succeeds(*predict(at, "out.npy", "--on-error", "fill"))
    paths = np.load(celeriac.folder / "rows.npy")
    paths[MISSING] = paths[1]
    np.save(celeriac.folder / "rows.npy", paths)
    words = ("--resume", "--only-failed")
    assert "go on with --accept-changes" in celeriac.refuses(ExitCode.USAGE, *predict(at, "out.npy", *words))

    ended = celeriac.succeeds(*predict(at, "out.npy", *words, "--accept-changes"))

    (change,) = ended.json["accepted_changes"]
    assert change.startswith("its input has changed (modified: ")
    assert change.endswith(f"; {ROWS - len(MISSING)} rows are from before")
    assert json.loads((celeriac.folder / "out.npy.ledger.json").read_text())["accepted_changes"] == [change]
    assert ended.json["ledger"]["failed"] == 0


def test_a_null_that_was_filled_in_the_data_is_mended_like_any_other(celeriac: Celeriac, at: list[str]) -> None:
    mend(celeriac, *MISSING)
    paths: list[str | None] = [str(number_file(celeriac, row)) for row in range(ROWS)]
    holes = [2, 33]
    data = celeriac.folder / "rows.parquet"
    pq.write_table(pa.table({"paths": [None if row in holes else paths[row] for row in range(ROWS)]}), data)
    ended = celeriac.succeeds(*predict(at, "out.npy", "--on-error", "fill", data="rows.parquet"))
    assert ended.json["ledger"]["failed"] == len(holes)
    failures = (celeriac.folder / "out.npy.failures.jsonl").read_bytes()
    records = msgspec.json.Decoder(FailureRecord).decode_lines(failures)
    assert [(one.start, one.stage, one.value) for one in records] == [(2, "read", ""), (33, "read", "")]
    assert "rows.parquet: column 'paths': row 2 is or holds null" in records[0].text
    check_output(celeriac, "out.npy", holes, "fill")
    again = predict(at, "out.npy", "--resume", "--only-failed", data="rows.parquet")
    assert "no row was predicted" in celeriac.run(*again).lines[0]  # nothing was mended

    pq.write_table(pa.table({"paths": [None if row == 2 else paths[row] for row in range(ROWS)]}), data)
    ended = celeriac.succeeds(*again, "--accept-changes")

    assert ended.json["ledger"]["failed"] == 1
    check_output(celeriac, "out.npy", [2], "fill")


def test_failures_of_a_job_are_listed(celeriac: Celeriac, at: list[str]) -> None:
    job = celeriac.succeeds(*predict(at, "out.npy", "--on-error", "skip")).json["job"]
    told = celeriac.succeeds("failures", job[:6], *at, "--json").json
    assert (told["job"], told["rows_failed"]) == (job, len(MISSING))
    assert [one["start"] for one in told["failures"]] == MISSING
    lines = celeriac.succeeds("failures", job, *at).stdout.splitlines()
    assert lines[0].split() == ["ROW", "STAGE", "TYPE", "TEXT"]
    assert [int(line.split()[0]) for line in lines[1:]] == MISSING
    status = celeriac.succeeds("status", job, *at).stdout
    assert f"55 of 60 predicted, 5 failed (see `celeriac failures {job}`)" in status


# --- what needs no job ------------------------------------------------------------------------------------------------


def test_failures_are_shown_with_the_model_where_several_ran(celeriac: Celeriac, system: System, at: list[str]) -> None:
    job = "0123456789ab"
    alone = FailureRecord(3, 5, "infer", "LookupError", "no such\nword", "words")
    rows = [FailureRecord(7, 8, "decode", "ValueError", "not a number"), alone]
    ledger = {"rows": 9, "predicted": 8, "failed": 1}
    record = JobRecord(job, ["a@0", "words@0"], "rows.npy", "redis", 9, 0.0, 0.0, "there:1", ledger)
    record = msgspec.structs.replace(record, failed_models={"words": alone})
    with system.admin() as server:
        job_store.create(server, record, SEALER, 600)
        assert celeriac.succeeds("failures", job, *at).stdout.splitlines()[1:] == [
            "3-5  infer  LookupError  words  no such word"
        ]
        server.rpush(keys.failures(job), *map(pack, rows))
        job_store.finish(server, record, SEALER, JobState.DONE, 600)
    assert celeriac.succeeds("failures", job[:4], *at).stdout.splitlines() == [
        "ROW  STAGE   TYPE         MODEL  TEXT",
        "3-5  infer   LookupError  words  no such word",
        "7    decode  ValueError   -      not a number",
    ]
    told = celeriac.succeeds("failures", job, *at, "--json").json
    assert told == {
        "job": job,
        "state": "done",
        "rows_failed": 1,
        "failed_models": ["words"],
        "failures": msgspec.to_builtins(rows[::-1]),
    }
    line = next(
        line for line in celeriac.succeeds("jobs", "--limit", 0, *at).stdout.splitlines() if line.startswith(job)
    )
    assert line.split()[4:7] == ["8", "1", "9"]


def test_a_job_without_failures_says_so(celeriac: Celeriac, system: System, at: list[str]) -> None:
    job = "ab0123456789"
    with system.admin() as server:
        job_store.create(server, JobRecord(job, ["a@0"], "rows.npy", "redis", 9, 0.0, 0.0, "there:1", {}), SEALER, 600)
    assert celeriac.succeeds("failures", job, *at).stdout == f"no failures of job {job} are known\n"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--on-error", "weep"], ["--on-error", "raise", "skip", "fill"]),
        (["--max-failed", "3"], ["--max-failed is for --on-error skip or fill"]),
        (["--max-failed", "3", "--on-error", "raise"], ["--max-failed is for --on-error skip or fill"]),
        (["--max-failed", "many", "--on-error", "skip"], ["'many' is neither a number of rows nor a share"]),
        (["--only-failed"], ["--only-failed is for --resume"]),
        (["--accept-changes"], ["--accept-changes is for --resume"]),
        (["--only-failed", "--resume", "--force"], ["--force makes no sense with --only-failed"]),
        (["--only-failed", "--resume", "--on-error", "skip", "--max-failed", "1"], ["--max-failed makes no sense"]),
    ],
)
def test_options_that_do_not_go_together_are_shown_with_the_usage(
    celeriac: Celeriac, at: list[str], words: list[str], told: list[str]
) -> None:
    line = celeriac.misused(*predict(at, "out.npy", *words))
    for word in told:
        assert word in line


@pytest.mark.parametrize("words", [("--on-error", "skip"), ("--on-error", "fill"), ("--max-failed", "3")])
def test_a_detached_job_ends_with_the_first_row_that_fails(
    celeriac: Celeriac, at: list[str], words: tuple[str, ...]
) -> None:
    line = celeriac.misused("predict", "reads", "rows.npy", "--detach", *at, *words)
    assert f"{words[0]} makes no sense with --detach without --output: a row that fails ends a detached job" in line
