"""`celeriac predict --dry-run`: tells what the run would be like, refuses what it would refuse, and leaves nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.protocol import keys
from tasks.transport.connection import connect
from tests.acceptance.commands import Celeriac
from tests.manifests import by_stem, write_manifest
from tests.systems import System, serving, shared_folders
from worker_config.broker import KEY_PREFIX
from worker_config.errors import ExitCode

ROWS = 10_000


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, models: Path, special_models: Path) -> Iterator[System]:
    """A Redis and a worker with two children; they share `spool` and `data`."""
    folder = tmp_path_factory.mktemp("s")
    paths = [
        models / "digits.keras",
        models / "pair.keras",
        special_models / "words.keras",
        special_models / "mean.keras",
    ]
    with serving(folder, write_manifest(folder, by_stem(*paths)), environ=shared_folders(folder)) as system:
        yield system


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(6).random((ROWS, 64), np.float32)


def left(*words: object) -> list[bytes]:
    """What a command with these words may have left in its Redis: keys of jobs, and their ids."""
    if "--broker" not in words:
        return []
    with connect(str(words[words.index("--broker") + 1])) as client:
        # A child that was asked for a chunk may note that once more; such a note has a time to live.
        found = [key for key in client.scan_iter(f"{KEY_PREFIX}job:*") if not key.endswith(b":deliveries")]
        return sorted(found) + cast("list[bytes]", client.zrange(keys.JOBS, 0, -1))


def dry(celeriac: Celeriac, *words: object, **environ: str) -> dict[str, Any]:
    """What a dry run tells as JSON; it says so to people too, writes no file, and leaves no job."""
    before = celeriac.visible_names(), left(*words)
    ended = celeriac.succeeds("predict", *words, "--dry-run", "--json", **environ)
    assert ended.stdout.splitlines()[-2] == "dry run  nothing was written, and no job left"
    assert (celeriac.visible_names(), left(*words)) == before
    assert celeriac.hidden_names() == set()
    assert ended.json["dry_run"] is True
    return ended.json


def refused(celeriac: Celeriac, code: ExitCode, *words: object, **environ: str) -> str:
    """The line by which a dry run is refused, which leaves nothing; `Celeriac.refuses` looks at files."""
    before = left(*words)
    line = celeriac.refuses(code, "predict", *words, "--dry-run", **environ)
    assert left(*words) == before
    return line


def test_a_batch_tells_what_the_run_would_be_like(
    celeriac: Celeriac, system: System, at: list[str], pixels: np.ndarray
) -> None:
    np.save(celeriac.folder / "rows.npy", pixels)
    told = dry(celeriac, "digits", "rows.npy", "-o", "out.npy", *at)
    assert told["input"]["columns"] == [{"name": "", "dtype": "float32", "shape": [None, 64]}]
    assert (told["input"]["rows"], told["input"]["row_bytes"]) == (ROWS, 256)
    assert told["batch"]["outputs"] == [{"name": "", "dtype": "float32", "shape": [None, 10]}]
    assert (told["batch"]["rows"], told["batch"]["failed"]) == (64, 0)
    assert told["batch"]["seconds"] > 0
    assert (told["slots"], told["workers"], told["store"], told["reply"]) == (2, 1, "redis", "redis")
    assert "CELERIAC_DATA_ROOTS" in told["reason"]
    assert told["seconds"] == pytest.approx(ROWS / 64 * told["batch"]["seconds"] / 2)
    assert told["chunk_rows"] % 64 == 0
    assert 0 < told["chunks"] <= ROWS / 64 + 1
    assert ROWS * 296 >= told["in_flight_bytes"] / 1.1 > 0
    assert (told["output_bytes"], told["output"]) == (ROWS * 40, str(celeriac.folder / "out.npy"))
    assert told["free_bytes"] > told["output_bytes"]
    assert told["detached"] is None

    fixed = dry(celeriac, "digits", "rows.npy", "-o", "out.npy", *at, "--chunk-rows", 50)
    assert (fixed["chunk_rows"], fixed["chunks"], fixed["batch"]["rows"]) == (50, 200, 50)


def test_the_store_is_that_of_the_run(celeriac: Celeriac, system: System, at: list[str], pixels: np.ndarray) -> None:
    np.save(celeriac.folder / "rows.npy", pixels)
    spool = {"CELERIAC_SPOOL": str(system.folder / "spool")}
    told = dry(celeriac, "digits", "rows.npy", "-o", "out.npy", *at, **spool)
    assert (told["store"], told["reply"]) == ("files", "files")
    assert told["spool_free_bytes"] > 0
    np.save(system.folder / "data" / "rows.npy", pixels)
    told = dry(celeriac, "digits", system.folder / "data" / "rows.npy", "-o", "out.npy", *at)
    assert (told["store"], told["reason"]) == ("slices", "workers read the rows in their own file")
    told = dry(celeriac, "digits", "rows.npy", "-o", "out.npy", *at, "--store", "redis", **spool)
    assert (told["store"], told["reason"]) == ("redis", "as was asked for")


def test_formats_that_are_read_in_order_and_several_models_go_too(
    celeriac: Celeriac, system: System, at: list[str]
) -> None:
    random = np.random.default_rng(7)
    left, right = random.random((ROWS, 4), np.float32), random.integers(0, 10, (ROWS, 3), np.int32)
    pq.write_table(
        pa.table({"left": pa.array(list(left)), "right": pa.array(list(right))}), celeriac.folder / "r.parquet"
    )
    for output in ("out.npz", "out.parquet", "out.zarr", "out.jsonl"):
        told = dry(celeriac, "pair", "r.parquet", "-o", output, *at)
        assert [spec["name"] for spec in told["input"]["columns"]] == ["left", "right"]
        assert [spec["name"] for spec in told["batch"]["outputs"]] == ["narrow", "wide"]
        assert told["output_bytes"] > 0
    np.savez(celeriac.folder / "rows.npz", sequence=random.random((100, 7, 4), np.float32))
    told = dry(celeriac, "mean", "rows.npz", "-o", "out.npy", *at)
    assert told["input"]["columns"][0]["shape"] == [None, 7, 4]


def test_no_rows_at_all_are_a_run_too(celeriac: Celeriac, at: list[str]) -> None:
    np.save(celeriac.folder / "rows.npy", np.zeros((0, 64), np.float32))
    told = dry(celeriac, "digits", "rows.npy", "-o", "out.npy", *at)
    assert (told["input"]["rows"], told["batch"]["rows"], told["seconds"], told["chunks"]) == (0, 0, 0, 1)


def test_errors_are_those_of_the_run(celeriac: Celeriac, at: list[str], pixels: np.ndarray, models: Path) -> None:
    np.save(celeriac.folder / "rows.npy", pixels)
    np.save(celeriac.folder / "narrow.npy", pixels[:, :5])
    np.save(celeriac.folder / "there.npy", pixels[:, :5])
    np.savez(celeriac.folder / "pairs.npz", left=pixels[:, :4], right=np.zeros((ROWS, 3), np.int32))
    both = {
        ("digits", "none.npy", "-o", "out.npy"): ExitCode.INPUT,
        ("digits", "narrow.npy", "-o", "out.npy"): ExitCode.INPUT,
        ("nosuch", "rows.npy", "-o", "out.npy"): ExitCode.MODEL,
        ("digits", "rows.npy", "-o", "there.npy"): ExitCode.USAGE,
        ("digits", "rows.npy", "-o", "no/such/out.npy"): ExitCode.USAGE,
        ("digits", "rows.npy", "-o", "out.txt"): ExitCode.USAGE,
        ("digits", "rows.npy", "-o", "out.npy", "--store", "files"): ExitCode.USAGE,
        ("pair", "pairs.npz", "-o", "out.npy"): ExitCode.USAGE,
    }
    for words, code in both.items():
        line = refused(celeriac, code, *words, *at)
        assert line == celeriac.refuses(code, "predict", *words, *at)
    manifest = write_manifest(celeriac.root, {"digits": "gone.keras"})
    words = ("digits", "rows.npy", "-o", "out.npy")
    line = refused(celeriac, ExitCode.MODEL, *words, "--models", manifest)
    assert line == celeriac.refuses(ExitCode.MODEL, "predict", *words, "--models", manifest)
    nobody = "redis://127.0.0.1:1/0"
    line = celeriac.refuses(ExitCode.BROKER, "predict", *words, "--dry-run", "--broker", nobody)
    assert line == celeriac.refuses(ExitCode.BROKER, "predict", *words, "--broker", nobody)


def test_a_row_that_fails_ends_it_or_is_counted(celeriac: Celeriac, at: list[str]) -> None:
    words = np.zeros((40, 3), np.int32)
    words[3] = 17
    np.save(celeriac.folder / "rows.npy", words)
    predict = ("words", "rows.npy", "-o", "out.npy", *at)
    assert "failed at infer" in refused(celeriac, ExitCode.ROWS_FAILED, *predict)
    told = dry(celeriac, *predict, "--on-error", "skip")
    assert (told["batch"]["rows"], told["batch"]["failed"]) == (40, 1)
    line = refused(celeriac, ExitCode.ROWS_FAILED, *predict, "--on-error", "fill", "--max-failed", "0")
    assert "1 rows failed, at most 0 may" in line


def test_a_detached_job_is_told_whether_it_fits(celeriac: Celeriac, at: list[str], pixels: np.ndarray) -> None:
    np.save(celeriac.folder / "rows.npy", pixels)
    told = dry(celeriac, "digits", "rows.npy", "--detach", *at)
    assert told["detached"]["fits"] is True
    assert ROWS * 296 < told["detached"]["bytes"] < ROWS * 296 * 1.1
    assert told["detached"]["limit_bytes"] == 256 * 2**20
    assert told["output"] is None
    words = ("digits", "rows.npy", "--detach", *at)
    line = refused(celeriac, ExitCode.USAGE, *words, CELERIAC_DETACHED_MIB="2")
    assert "too large to be left" in line
    assert line == celeriac.refuses(ExitCode.USAGE, "predict", *words, CELERIAC_DETACHED_MIB="2")


def test_the_embedded_system_tries_too(celeriac: Celeriac, models: Path, pixels: np.ndarray) -> None:
    np.save(celeriac.folder / "rows.npy", pixels)
    manifest = write_manifest(celeriac.folder, {"digits": models / "digits.keras"})
    told = dry(celeriac, "digits", "rows.npy", "-o", "out.npy", "--models", manifest, "--workers", 1)
    assert (told["store"], told["reply"], told["slots"]) == ("slices", "files", 1)


def test_a_folder_that_workers_would_write_is_tried_as_a_file_of_it(
    celeriac: Celeriac, at: list[str], models: Path, pixels: np.ndarray
) -> None:
    np.save(celeriac.folder / "rows.npy", pixels)
    words = ("digits", "rows.npy", "-o", "out.parquet/")
    line = refused(celeriac, ExitCode.USAGE, *words, *at)
    assert line.startswith(f"celeriac: {celeriac.folder}: ")
    assert "may not write there: it is under no folder of their CELERIAC_OUTPUT_ROOTS" in line
    assert line.endswith(f"start the workers with CELERIAC_OUTPUT_ROOTS={celeriac.folder}, or write a single file")
    manifest = write_manifest(celeriac.folder, {"digits": models / "digits.keras"})
    told = dry(celeriac, *words, "--models", manifest, "--workers", 1)
    assert (told["output"], told["output_bytes"]) == (str(celeriac.folder / "out.parquet"), ROWS * 40)
    (celeriac.folder / "out.parquet").mkdir()
    (celeriac.folder / "out.parquet" / "thesis.txt").touch()
    told_why = refused(celeriac, ExitCode.USAGE, *words, "--models", manifest, "--force")
    assert "has files that are not of such an output" in told_why


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-o", "out.npy", "--resume"], "--resume makes no sense with --dry-run"),
        (["-o", "out.npy", "--resume", "--only-failed"], "--resume makes no sense with --dry-run"),
        (["--detach", "--force"], "--force makes no sense with --detach"),
        (["--detach"], "--detach needs a broker"),
        ([], "Missing option '-o'"),
    ],
)
def test_options_that_make_no_sense_together_are_refused(celeriac: Celeriac, words: list[str], said: str) -> None:
    np.save(celeriac.folder / "rows.npy", np.zeros((3, 64), np.float32))
    assert said in celeriac.misused("predict", "digits", "rows.npy", "--dry-run", *words)


def test_quiet_leaves_the_json_line(celeriac: Celeriac, at: list[str], pixels: np.ndarray) -> None:
    np.save(celeriac.folder / "rows.npy", pixels)
    words = ("predict", "digits", "rows.npy", "-o", "out.npy", *at, "--dry-run", "--quiet")
    assert celeriac.succeeds(*words).stdout == ""
    (line,) = celeriac.succeeds(*words, "--json").stdout.splitlines()
    assert json.loads(line)["dry_run"]
