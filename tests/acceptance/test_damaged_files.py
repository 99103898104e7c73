"""Files that are damaged, do not fit together or change, and disks that are full: one line, and nothing is left."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from tests import damages
from tests.acceptance.commands import Celeriac
from tests.data_sets import SIDES, write_parquet
from tests.systems import System
from worker_config.errors import ExitCode

MANY_ROWS = 100_000


@pytest.fixture(scope="module")
def system(kinds_system: System) -> System:
    return kinds_system


def check_says(line: str, *words: object) -> None:
    for word in words:
        assert str(word) in line


# --- files that are not what they should be -------------------------------------------------------------------------


def write_cut_short(folder: Path) -> None:
    write_parquet(folder / "1.parquet")
    write_parquet(folder / "2.parquet")
    os.truncate(folder / "2.parquet", (folder / "2.parquet").stat().st_size - 100)


def write_one_without_a_column(folder: Path) -> None:
    write_parquet(folder / "1.parquet")
    pa.parquet.write_table(pa.table({"left": list(SIDES["left"])}), folder / "2.parquet")


def write_one_of_another_dtype(folder: Path) -> None:
    write_parquet(folder / "1.parquet")
    write_parquet(folder / "2.parquet", right=pa.array(list(SIDES["right"].astype(np.int64))))


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (write_cut_short, ["2.parquet", "is damaged or cut short", "copy or write it again"]),
        (write_one_without_a_column, ["2.parquet", "has no column 'right'", "its columns are 'left'"]),
        (write_one_of_another_dtype, ["2.parquet", "column 'right' is list<", "int64", "int32", "write all alike"]),
    ],
)
def test_parquet_files_that_do_not_fit_are_refused_before_a_worker_is_started(
    celeriac: Celeriac, special_models: Path, write: Callable[[Path], None], words: list[str]
) -> None:
    write(celeriac.folder)
    unused = special_models / "broken.toml"  # its one model ends every worker
    line = celeriac.refuses(ExitCode.INPUT, "predict", "broken", "*.parquet", "-o", "out.npz", "--models", unused)
    check_says(line, *words)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"left": list(SIDES["left"])}, ["'left', 'right'", "the data set has 'left'"]),
        ({"left": list(SIDES["left"]), "id": range(60)}, ["'left', 'right'", "the data set has 'left', 'id'"]),
    ],
    ids=["one missing", "another one"],
)
def test_a_parquet_file_without_the_model_s_columns_is_told_which_ones(
    celeriac: Celeriac, system: System, columns: dict[str, Any], words: list[str]
) -> None:
    table = pa.table({name: pa.array(values) for name, values in columns.items()})
    pa.parquet.write_table(table, celeriac.folder / "x.parquet")
    line = celeriac.refuses(
        ExitCode.INPUT, "predict", "pair", "x.parquet", "-o", "out.npz", "--broker", system.url, "--quiet"
    )
    check_says(line, "model pair", *words)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (damages.parquet_set_with_a_damaged_file, ["2.parquet", "is damaged or cut short", "copy or write it again"]),
        (damages.parquet_with_a_null, ["nulls.parquet", "column 'left'", "row 29 is or holds null", "fill nulls"]),
        (damages.torn_tfrecord, ["rows.tfrecord", "record 29 at byte", "is cut short", "copy or write the file again"]),
        (damages.damaged_tfrecord, ["rows.tfrecord", "record 29 at byte", "is damaged", "write the file again"]),
        (damages.damaged_zarr, ["rows.zarr", "rows from 24", "is damaged or cut short", "copy or write it again"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_damage_in_the_middle_ends_the_command_with_its_place(
    celeriac: Celeriac, system: System, make: Callable[[Path], object], words: list[str]
) -> None:
    model = next((damage.model for damage in damages.DAMAGES if damage.make is make), "pair")
    made = make(celeriac.folder)
    path = made if isinstance(made, str | Path) else "rows.zarr"
    ended = celeriac.run(  # which looks at what is kept beside the output
        *("predict", model, path, "-o", "out.parquet", "--chunk-rows", damages.CHUNK_ROWS, "--quiet"),
        *("--broker", system.url),
    )
    assert (ended.code, ended.stdout) == (ExitCode.INPUT, ""), ended
    celeriac.check_one_line(ended)
    check_says(ended.lines[0], *words)
    assert not (celeriac.folder / "out.parquet").exists()


# --- files that change ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("store", ["redis", "slices"])
def test_a_file_that_is_cut_short_meanwhile_ends_the_command(celeriac: Celeriac, system: System, store: str) -> None:
    rows = system.folder / "data" / "meanwhile.npy"
    np.save(rows, np.random.default_rng(1).random((MANY_ROWS, 64), np.float32))
    running = celeriac.start(
        *("predict", "digits", rows, "-o", "out.npy", "--chunk-rows", 200, "--store", store, "--json"),
        *("--broker", system.url),
    )
    running.job_that_predicts(system.url)
    os.truncate(rows, 100_000)

    ended = running.end()

    assert ended.code == ExitCode.INPUT, ended
    celeriac.check_one_line(ended)
    check_says(ended.lines[0], rows.name, "has been cut short since it was opened", "leave the file as it is")
    ledger = ended.json["ledger"]
    assert 0 < ledger["predicted"] < ledger["rows"] == MANY_ROWS
    assert ledger["rows"] == ledger["predicted"] + ledger["failed"] + ledger["skipped"]
    assert ended.json["output"] is None
    assert 0 < ended.safe_rows <= ledger["predicted"]
    celeriac.check_nothing_is_left(celeriac.kept_by(ended))
    assert celeriac.visible_names() == set()


# --- a disk that is full --------------------------------------------------------------------------------------------


def through(celeriac: Celeriac, script: str) -> None:
    """Run the command from a shell script, as `$@`."""
    program = celeriac.root / "script"
    program.write_text(f'#!/bin/sh\nset -- {celeriac.program} "$@"\n{script}\n')
    program.chmod(0o755)
    celeriac.program = program


# A disk of 64 KiB that this process alone sees, and that ends with it.
SMALL_DISK = 'exec unshare -m sh -c \'mount -t tmpfs -o size=64k none disk && exec "$0" "$@"\' "$@"'


@pytest.mark.parametrize("suffix", [".npz", ".zarr"])
def test_an_output_that_may_not_grow_ends_the_command(celeriac: Celeriac, system: System, suffix: str) -> None:
    np.save(celeriac.folder / "rows.npy", np.random.default_rng(2).random((2_000, 64), np.float32))
    through(celeriac, 'ulimit -f 16; exec "$@"')
    line = celeriac.refuses(
        ExitCode.USAGE, "predict", "digits", "rows.npy", "-o", f"out{suffix}", "--quiet", "--broker", system.url
    )
    check_says(
        line, celeriac.folder / f"out{suffix}", "cannot be written: File too large", "check the folder, the disk"
    )


@pytest.mark.parametrize(
    ("suffix", "words"),
    [
        (".npy", ["needs 1 MiB, the disk has 0 MiB free", "make room"]),
        (".jsonl", ["cannot be written: No space left on device", "check the folder, the disk"]),
        (".parquet", ["cannot be written: No space left on device", "check the folder, the disk"]),
    ],
)
def test_a_disk_that_is_full_ends_the_command(
    celeriac: Celeriac, system: System, suffix: str, words: list[str]
) -> None:
    mount = ["/bin/sh", "-c", "unshare -m mount -t tmpfs none /tmp"]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a small disk of its own")
    np.save(celeriac.folder / "rows.npy", np.random.default_rng(2).random((20_000, 64), np.float32))
    (celeriac.folder / "disk").mkdir()
    through(celeriac, SMALL_DISK)
    line = celeriac.refuses(
        ExitCode.USAGE, "predict", "digits", "rows.npy", "-o", f"disk/out{suffix}", "--quiet", "--broker", system.url
    )
    check_says(line, f"disk/out{suffix}", *words)
