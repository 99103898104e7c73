"""The commands as people use them: predictions equal the model's own, and what is shown about models and jobs."""

from __future__ import annotations

import datetime
import fcntl
import os
import pty
import re
import struct
import termios
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from producer.cli.commands import cli
from tasks.snapshots.record import Trial
from tests.acceptance.commands import Celeriac, Ended, read_all
from tests.forms import in_long_form
from tests.manifests import write_manifest
from tests.models import in_one_process
from tests.systems import REPOSITORY, System
from worker_config.errors import ExitCode

COMMANDS = [
    *(
        "predict",
        "worker",
        "models",
        "jobs",
        "status",
        "failures",
        "report",
        "watch",
        "fetch",
        "cancel",
        "priority",
        "dashboard",
        "doctor",
        "demo",
        "init",
        "completion",
    )
]
ROWS = 1_000
TABLE = ["MODEL", "VERSION", "INPUTS", "OUTPUTS", "BATCH", "EXECUTOR", "RATE", "OWN", "SHARED", "ERROR", "GRAPH'S"]
TABLE += ["SLOTS"]


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(6).random((ROWS, 64), np.float32)


@pytest.fixture(scope="module")
def pairs() -> dict[str, np.ndarray]:
    random = np.random.default_rng(7)
    return {"left": random.random((ROWS, 4), np.float32), "right": random.integers(0, 10, (ROWS, 3), np.int32)}


def check_close(output: np.ndarray, expected: np.ndarray) -> None:
    assert output.dtype == expected.dtype
    np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-6)


def run_predict(celeriac: Celeriac, system: System, model: str, rows: Any, output: str, *words: object) -> Ended:
    """Predict in-memory rows through a file, with the shared system's worker."""
    name = "rows.npz" if isinstance(rows, dict) else "rows.npy"
    with (celeriac.folder / name).open("wb") as stream:
        np.savez(stream, **rows) if isinstance(rows, dict) else np.save(stream, rows)
    return celeriac.succeeds("predict", model, name, "-o", output, "--broker", system.url, *words)


# --- predict --------------------------------------------------------------------------------------------------------


def test_an_array_is_predicted_as_the_model_itself_does(
    celeriac: Celeriac, running_system: System, models: Path, pixels: np.ndarray
) -> None:
    ended = run_predict(celeriac, running_system, "digits", pixels, "out.npy", "--chunk-rows", 37)
    check_close(np.load(celeriac.folder / "out.npy"), in_one_process(models / "digits.keras", pixels))
    assert "1,000 rows predicted in" in ended.stdout
    assert "rows per second" in ended.stdout
    assert str(celeriac.folder / "out.npy") in ended.stdout
    assert celeriac.visible_names() == {"rows.npy", "out.npy"}


def test_columns_of_a_parquet_file_are_matched_to_inputs(
    celeriac: Celeriac, running_system: System, models: Path, pairs: dict[str, np.ndarray]
) -> None:
    columns = {name: pa.array(list(rows)) for name, rows in pairs.items()}
    apart = {f"left{n}": pa.array(pairs["left"][:, n]) for n in range(4)}
    others = {"id": pa.array(range(ROWS)), "when": pa.array([datetime.date(2024, 5, 1)] * ROWS), **apart}
    pq.write_table(pa.table({**others, **columns}), celeriac.folder / "rows.parquet")
    words = ("predict", "pair", "rows.parquet", "--broker", running_system.url)
    expected = in_one_process(models / "pair.keras", pairs)
    ended = celeriac.run(*words, "-o", "out.npz")
    assert ended.code == ExitCode.OK, ended
    celeriac.check_one_line(ended)
    assert ended.lines[0].endswith("no model takes the columns id, left0, left1, left2, left3, when (date32[day])")
    celeriac.succeeds(*words, "-o", "named.npz", "--columns", "left,right")
    made = ("--columns", "left=left0..left3", "--columns", "right")
    celeriac.succeeds(*words, "-o", "made.npz", *made)
    celeriac.succeeds(*words, "-o", "kept.parquet", *made, "--keep", "id,left0")
    kept = pq.read_table(celeriac.folder / "kept.parquet", columns=["id", "left0"])
    assert kept.equals(pa.table({"id": others["id"], "left0": apart["left0"]}))
    for name in ("out.npz", "named.npz", "made.npz"):
        with np.load(celeriac.folder / name) as output:
            assert sorted(output) == ["narrow", "wide"]
            for key in output:
                check_close(output[key], expected[key])
    np.save(celeriac.folder / "rows.npy", pairs["left"])
    told = celeriac.refuses(
        ExitCode.USAGE, "predict", "pair", "rows.npy", "-o", "x.npz", "--columns", "left", *words[-2:]
    )
    assert "rows.npy: has no columns by name to choose from; leave out 'columns'" in told


def test_two_inputs_and_two_outputs_are_predicted_as_the_model_itself_does(
    celeriac: Celeriac, running_system: System, models: Path, pairs: dict[str, np.ndarray]
) -> None:
    run_predict(celeriac, running_system, "pair", pairs, "out.npz", "--chunk-rows", 129)
    expected = in_one_process(models / "pair.keras", pairs)
    with np.load(celeriac.folder / "out.npz") as output:
        assert set(output) == {"wide", "narrow"}
        for name in output:
            check_close(output[name], expected[name])


def test_several_models_go_into_one_file_under_their_names(
    celeriac: Celeriac, running_system: System, models: Path, pixels: np.ndarray
) -> None:
    run_predict(celeriac, running_system, "digits,digits_h5,digits_saved", pixels, "out.npz")
    expected = in_one_process(models / "digits.keras", pixels)
    with np.load(celeriac.folder / "out.npz") as output:
        assert set(output) == {"digits", "digits_h5", "digits_saved"}
        for name in output:
            check_close(output[name], expected)


def test_several_models_with_several_outputs_are_named_by_model_and_output(
    celeriac: Celeriac, running_system: System, models: Path, pairs: dict[str, np.ndarray]
) -> None:
    run_predict(celeriac, running_system, "pair,pair_saved", pairs, "out.npz")
    expected = in_one_process(models / "pair.keras", pairs)
    with np.load(celeriac.folder / "out.npz") as output:
        assert set(output) == {"pair/wide", "pair/narrow", "pair_saved/wide", "pair_saved/narrow"}
        for name in output:
            check_close(output[name], expected[name.split("/")[1]])


def test_integers_and_doubles_are_cast_as_keras_does(
    celeriac: Celeriac, running_system: System, models: Path, pixels: np.ndarray
) -> None:
    sixteenths = (pixels * 16).astype(np.uint8)
    run_predict(celeriac, running_system, "digits", sixteenths, "out.npy")
    check_close(np.load(celeriac.folder / "out.npy"), in_one_process(models / "digits.keras", sixteenths))
    run_predict(celeriac, running_system, "digits", pixels.astype(np.float64), "doubles.npy")
    check_close(np.load(celeriac.folder / "doubles.npy"), in_one_process(models / "digits.keras", pixels))


def test_the_broker_may_come_from_the_environment(
    celeriac: Celeriac, running_system: System, pixels: np.ndarray
) -> None:
    np.save(celeriac.folder / "rows.npy", pixels)
    celeriac.succeeds("predict", "digits", "rows.npy", "-o", "out.npy", CELERIAC_BROKER_URL=running_system.url)
    assert np.load(celeriac.folder / "out.npy").shape == (ROWS, 10)


def test_the_embedded_system_predicts_without_a_broker(celeriac: Celeriac, models: Path, pixels: np.ndarray) -> None:
    np.save(celeriac.folder / "rows.npy", pixels)
    (celeriac.folder / "models.toml").write_text(f'[models.digits]\npath = "{models}/digits.keras"\n')
    celeriac.succeeds("predict", "digits", "rows.npy", "-o", "out.npy", "--workers", 1)
    check_close(np.load(celeriac.folder / "out.npy"), in_one_process(models / "digits.keras", pixels))


def test_quiet_says_nothing(celeriac: Celeriac, running_system: System, pixels: np.ndarray) -> None:
    assert run_predict(celeriac, running_system, "digits", pixels, "out.npy", "--quiet").stdout == ""


def test_quiet_leaves_the_json_line(celeriac: Celeriac, running_system: System, pixels: np.ndarray) -> None:
    ended = run_predict(celeriac, running_system, "digits", pixels, "out.npy", "--quiet", "--json")
    assert len(ended.stdout.splitlines()) == 1
    assert ended.json["ledger"]["written"] == ROWS


@pytest.mark.parametrize(("quiet", "is_shown"), [([], True), (["--quiet"], False)], ids=["shown", "quiet"])
def test_a_terminal_shows_a_live_bar_unless_quiet(
    celeriac: Celeriac, running_system: System, pixels: np.ndarray, quiet: list[str], is_shown: bool
) -> None:
    np.save(celeriac.folder / "rows.npy", pixels)
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    try:
        predict = ["predict", "digits", "rows.npy", "-o", "out.npy", "--broker", running_system.url]
        running = celeriac.start(*predict, *quiet, stderr=theirs)
    finally:
        os.close(theirs)
    shown = read_all(ours)
    assert running.end().code == ExitCode.OK
    assert ("1000/1000" in shown and "rows" in shown and "100%" in shown) == is_shown
    assert "Traceback" not in shown
    assert is_shown or shown == ""


# --- models ---------------------------------------------------------------------------------------------------------


def test_models_of_a_manifest_as_json_are_those_that_workers_hold(
    celeriac: Celeriac, running_system: System, models: Path
) -> None:
    of_manifest = celeriac.succeeds("models", "--models", models / "models.toml", "--json").json["models"]
    of_workers = celeriac.succeeds("models", "--broker", running_system.url, "--json").json["models"]
    assert [info["slots"] for info in of_workers] == [2] * 5
    assert [info["slots"] for info in of_manifest] == [None] * 5
    same = ["name", "digest", "batch_rows", "inputs", "outputs"]
    assert [[info[key] for key in same] for info in of_manifest] == [[info[key] for key in same] for info in of_workers]
    assert len({info["digest"] for info in of_manifest}) == 5
    assert all(info["memory_bytes"] >= 0 for info in of_manifest)


def test_models_of_a_broker_are_listed_with_inputs_outputs_and_slots(
    celeriac: Celeriac, running_system: System
) -> None:
    table = [
        re.split("  +", line)
        for line in celeriac.succeeds("models", "--broker", running_system.url).stdout.splitlines()
    ]
    assert table[0] == TABLE
    # Smaller batches, as trials have found them worth it, stand before the whole one.
    listed = {line[0]: [*line[2:4], line[4].rpartition(" ")[2], line[-1]] for line in table[1:] if line[0]}
    assert list(listed) == ["digits", "digits_h5", "digits_saved", "pair", "pair_saved"]
    assert listed["digits"] == ["pixels (?, 64) float32", "scores (?, 10) float32", "64", "2"]
    assert listed["pair"] == ["left (?, 4) float32", "narrow (?, 1) float32", "64", "2"]
    assert ["", "right (?, 3) int32", "wide (?, 6) float32"] in table
    run = dict(zip(TABLE, next(line for line in table if line[0] == "digits"), strict=True))
    assert re.fullmatch(r"[\d,]+ rows/s", run["RATE"])
    assert all(re.fullmatch(r"[\d,]+ MiB", run[column]) for column in ("OWN", "SHARED"))
    assert float(run["ERROR"]) < 1e-4


def test_models_tell_all_trials_of_executors_and_why_one_is_not_used(celeriac: Celeriac, models: Path) -> None:
    (celeriac.folder / "models.toml").write_text(
        f'[models.shared]\npath = "{models}/digits.keras"\nprefer = "memory"\nbatch_rows = 32\n'
        f'[models.lower]\npath = "{models}/digits.keras"\nprecision = ["int8"]\n'
        'calibration = "rows.npy"\ntolerance = 1e-9\n'
        '[models.function]\npath = "builtins:len"\n'
    )
    np.save(celeriac.folder / "rows.npy", np.random.default_rng(1).random((20, 64), np.float32))
    told = {info["name"]: info for info in celeriac.succeeds("models", "--json").json["models"]}
    assert all(set(trial) == set(Trial.__struct_fields__) for info in told.values() for trial in info["trials"])
    trials = {name: {trial["executor"]: trial for trial in info["trials"]} for name, info in told.items()}
    assert next(iter(trials["shared"])) == "graph"
    assert "memory is preferred" in trials["shared"]["openvino"]["why"]
    # So small a model has no constants that would be worth sharing.
    assert (told["shared"]["shared_bytes"] > 0) == (told["shared"]["executor"] != "frozen")
    assert trials["shared"][told["shared"]["executor"]]["agrees"]
    assert not trials["lower"]["int8"]["agrees"]
    assert trials["lower"]["int8"]["error"] > 0
    assert trials["lower"]["int8"]["rows"] == 20
    assert sum(one["rows"] for one in trials["lower"]["int8"]["classes"]) == 20
    assert (trials["function"], told["function"]["executor"]) == ({}, "plain")

    lines = celeriac.succeeds("models").stdout.splitlines()
    notes = {line.split()[0]: below for line, below in pairwise(lines) if below.startswith("  ")}
    assert notes["lower"].strip() == told["lower"]["note"]
    assert "int8 deviates by" in notes["lower"]
    assert notes["function"].strip() == "a function, imported by each child"
    (function,) = [line for line in lines if line.startswith("function")]
    assert "plain" in function
    assert "rows/s" not in function


def test_models_tell_what_files_touch_and_refuse_what_is_not_allowed(
    celeriac: Celeriac, models: Path, special_models: Path
) -> None:
    write_manifest(
        celeriac.folder,
        {
            "digits": models / "digits.keras",
            "reads": special_models / "reads",
            "allowed": {"path": special_models / "reads", "allow_file_operations": True},
            "size": {"path": "builtins:len", "preprocess": "builtins:list"},
        },
    )
    told = celeriac.succeeds("models", "--inspect", "--json").json["models"]
    digits, reads, allowed, size = told
    assert [one["name"] for one in told] == ["digits", "reads", "allowed", "size"]
    (operation,) = reads["operations"]
    assert (operation["operation"], operation["touches"]) == ("ReadFile", "files")
    assert allowed["operations"] == [operation]
    assert (digits["operations"], digits["refused"], allowed["refused"], size["refused"]) == ([], "", "", "")
    assert size["functions"] == ["builtins:list", "builtins:len"]

    lines = celeriac.succeeds("models", "--inspect").stdout.splitlines()
    assert "digits: touches neither files, nor the network, nor Python" in lines
    assert f"reads: ReadFile ({operation['node']}) touches files" in lines
    assert f"reads is not loaded: {reads['refused']}" in lines
    assert "size: builtins:len is Python" in lines

    np.save(celeriac.folder / "rows.npy", np.array(["/etc/hostname"]))
    listed = celeriac.run("models")
    assert listed.code == ExitCode.MODEL
    (marked,) = [line for line in listed.stdout.splitlines() if line.startswith("reads  broken: ")]
    for line in marked, celeriac.refuses(ExitCode.MODEL, "predict", "reads", "rows.npy", "-o", "out.npy"):
        assert "model reads cannot be loaded from" in line
        assert "ReadFile" in line
        assert "allow_file_operations = true in the manifest" in line
    assert "leave out --broker" in celeriac.misused("models", "--inspect", "--broker", "redis://localhost")


@in_long_form
def test_pruning_keeps_what_the_manifest_and_workers_need(
    celeriac: Celeriac, system: System, models: Path, tmp_path: Path
) -> None:
    environ = {"XDG_CACHE_HOME": str(tmp_path)}
    manifest = celeriac.folder / "models.toml"
    for name in ("pair", "digits"):
        manifest.write_text(f'[models.a]\npath = "{models}/{name}.keras"\nprefer = "memory"\n')
        celeriac.succeeds("models", **environ)
    other = tmp_path / "other.toml"
    other.write_text(f'[models.b]\npath = "{models}/digits_saved"\nprefer = "memory"\n')
    worker = system.start_ready_worker(other, 1, environ=environ)
    cache = tmp_path / "celeriac"
    assert len(list(cache.glob("*/snapshot.json"))) == 3

    told = celeriac.succeeds("models", "--prune", **environ, CELERIAC_BROKER_URL=system.url).stdout.splitlines()

    assert len(told) == 2
    assert re.fullmatch(rf" +\d\.\d MiB  {models}/pair\.keras  \(\w{{8}}\)", told[0])
    assert told[1].endswith(f"MiB  in all, removed from {cache}")
    assert len(list(cache.glob("*/snapshot.json"))) == 2
    worker.stop()
    gone = celeriac.succeeds("models", "--prune", "--json", **environ).json
    assert [one["source"] for one in gone["removed"]] == [f"{models}/digits_saved"]
    assert gone["bytes"] == gone["removed"][0]["bytes"] > 0
    celeriac.succeeds("models", **environ)


def test_pruning_without_a_manifest_or_with_a_broker_is_refused(celeriac: Celeriac, models: Path) -> None:
    assert "models.toml cannot be read" in celeriac.refuses(ExitCode.USAGE, "models", "--prune")
    told = celeriac.misused("models", "--prune", "--broker", "redis://localhost", "--models", models / "models.toml")
    assert "leave out --broker" in told
    (celeriac.folder / "models.toml").write_text('[models.a]\npath = "gone.keras"\n')
    assert "no such file" in celeriac.refuses(ExitCode.MODEL, "models", "--prune")


def test_without_workers_and_jobs_the_lists_say_so(celeriac: Celeriac, system: System) -> None:
    assert celeriac.succeeds("models", "--broker", system.url).stdout == "no models: no worker is up\n"
    nothing = {"models": [], "broken": {}, "preparing": {}}
    assert celeriac.succeeds("models", "--broker", system.url, "--json").json == nothing
    assert celeriac.succeeds("jobs", "--broker", system.url).stdout == "no jobs\n"
    assert celeriac.succeeds("jobs", "--broker", system.url, "--json").json == {"jobs": []}


# --- jobs -----------------------------------------------------------------------------------------------------------


def test_a_finished_job_is_shown_and_found_by_the_first_characters_of_its_id(
    celeriac: Celeriac, running_system: System, pixels: np.ndarray
) -> None:
    ended = run_predict(celeriac, running_system, "digits", pixels, "out.npy", "--json", "--chunk-rows", 100)
    summary, at = ended.json, ["--broker", running_system.url]
    job = summary["job"]

    listed = {line.split()[0]: line for line in celeriac.succeeds("jobs", "--limit", 0, *at).stdout.splitlines()}
    for word in ("done", "digits@", "rows.npy", "1000", "ago"):
        assert word in listed[job]
    assert job in [known["job"] for known in celeriac.succeeds("jobs", "--limit", 0, *at, "--json").json["jobs"]]

    lines = celeriac.succeeds("status", job[:6], *at).stdout.splitlines()
    shown = {name: text.strip() for name, text in (line.split(None, 1) for line in lines)}
    assert (shown["job"], shown["state"]) == (job, "done")
    assert shown["input"] == "rows.npy, 1000 rows, by way of redis"
    assert "predicted 1000" in shown["ledger"]

    told = celeriac.succeeds("status", job, *at, "--json").json
    assert (told["job"], told["state"], told["rows"], told["ledger"]["chunks_sent"]) == (job, "done", ROWS, 10)
    for name in ("rows", "predicted", "failed", "skipped", "duplicates"):
        assert told["ledger"][name] == summary["ledger"][name]

    cancelled = celeriac.succeeds("cancel", job[:6], *at)
    assert cancelled.stdout == f"job {job} is done already\n"
    assert celeriac.succeeds("status", job, *at, "--json").json["state"] == "done"


@pytest.mark.parametrize("command", ["status", "failures", "cancel"])
@pytest.mark.parametrize("job", ["no-such-job", ""])
def test_a_job_that_nobody_knows_is_told_with_where_to_look(
    celeriac: Celeriac, running_system: System, command: str, job: str
) -> None:
    line = celeriac.refuses(ExitCode.USAGE, command, job, "--broker", running_system.url)
    assert repr(job) in line
    assert "`celeriac jobs` lists them" in line


# --- help -----------------------------------------------------------------------------------------------------------


def test_the_main_help_has_every_command_examples_and_exit_codes(celeriac: Celeriac) -> None:
    text = celeriac.succeeds("--help").stdout
    for command in COMMANDS:
        assert f"\n  {command} " in text
    examples = [line.strip() for line in text.splitlines() if line.strip().startswith("celeriac ")]
    assert len(examples) >= 5
    words = text[text.index("Exit codes:") :].split()
    assert {str(int(code)) for code in ExitCode} <= set(words)
    assert celeriac.succeeds("-h").stdout == text


def test_every_commands_help_names_units_and_environment_variables() -> None:
    variables = {
        "--broker": ([name for name in COMMANDS if name not in ("init", "completion")], "CELERIAC_BROKER_URL"),
        "--models": (["predict", "worker", "models", "doctor"], "CELERIAC_MODELS"),
    }
    for command in COMMANDS:
        text = helped(command)
        assert text.startswith(f"Usage: celeriac {command} ")
        for option, (commands, variable) in variables.items():
            assert (option in text and variable in text) == (command in commands), (command, option)
    text = helped("predict")
    for unit in ("--chunk-rows", "--worker-timeout-seconds"):
        assert unit in text
    assert "default: 30.0" in text
    table = (REPOSITORY / "docs" / "data.md").read_text(encoding="utf-8").split("## What it reads")[1].split("\n\n")[1]
    formats = {
        name for cell in re.findall(r"^\| (.*?) \|", table, re.MULTILINE) for name in re.findall(r"`(\.\w+)`", cell)
    }
    assert len(formats) > 10
    assert all(re.search(rf"{re.escape(name)}\b", text) for name in formats)


def helped(command: str) -> str:
    """The words of a command's help."""
    ended = CliRunner().invoke(cli, [command, "--help"], prog_name="celeriac")
    assert ended.exit_code == ExitCode.OK
    return " ".join(ended.stdout.split())


def test_the_version_is_told(celeriac: Celeriac) -> None:
    assert "0." in celeriac.succeeds("--version").stdout
