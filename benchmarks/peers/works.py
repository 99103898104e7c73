"""The works that systems are compared at: a model, its rows in files, and what has to come out.

`WORKS` --`set_up`--> a folder with the model, rows.npy, the same rows as Parquet --> `Stage`: orders, and their check
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.executors_models import digits
from benchmarks.feeding_step import COLUMNS, LOOPS, calibrate
from benchmarks.harness import WrongOutputError
from benchmarks.models import run_apart
from benchmarks.peers.outputs import check_rows, check_values, remove_output
from benchmarks.peers.systems.tables import as_bytes
from benchmarks.split_reads import write_file
from benchmarks.split_reads_model import total
from benchmarks.stage import folder
from worker_config.foreign_errors import one_line

CALLERS = 16
# Of a lower precision, as in the manifest: in units of the outputs' spread; the share of rows of the same class.
ALLOWED = {"tolerance": 0.1, "agreement": 0.97}
_CALIBRATION_ROWS = 512
_PARQUET_FILES, _PARQUET_GROUPS = 8, (16, 2)
_PARTS = 16


@dataclass(frozen=True)
class Work:
    """What is to be done.

    Attributes:
        title: for people.
        rows: of a run, and of a quick one.
        batch_rows: of a call of the model.
        row_shape, output_shape: of one row.
        model: which of `works_models`, by a run and a quick one; none where nothing is loaded.
        bfloat16: by which of what may be allowed ours may use it, in an arm of its own; it may not, if empty.
    """

    title: str
    rows: tuple[int, int]
    batch_rows: int
    row_shape: tuple[int, ...] = ()
    output_shape: tuple[int, ...] = (10,)
    model: tuple[str, str] = ("", "")
    bfloat16: str = ""


WORKS = {
    "mobilenet": Work(
        "MobileNetV2, pictures of 64 x 64",
        (6_144, 128),
        64,
        (64, 64, 3),
        model=("mobilenet", "mobilenet_quick"),
        bfloat16="agreement",
    ),
    "mlp": Work(
        "MLP 1024-4096-4096-10", (12_288, 1_024), 256, (1024,), model=("mlp", "mlp_quick"), bfloat16="tolerance"
    ),
    "transformer": Work(
        "transformer of two layers, 64 x 128",
        (5_120, 256),
        64,
        (64, 128),
        model=("transformer",) * 2,
        bfloat16="tolerance",
    ),
    "weights": Work("655 MB of weights", (512, 64), 16, (1024,), model=("weights", "weights_quick")),
    "identity": Work("identity on rows of 4 KiB", (131_072, 4_096), 512, (1024,), (1024,), model=("identity",) * 2),
    "parquet": Work("Parquet to Parquet, a sum of eight columns", (1, 1), 65_536, (8,), ()),
    "requests": Work(
        f"one row at a time, {CALLERS} callers", (3_200, 64), 64, (64, 64, 3), model=("mobilenet", "mobilenet_quick")
    ),
    "fit": Work("feeding `fit()`, 10 ms of Python a row", (1_024, 128), 32, (COLUMNS,), model=("fit",) * 2),
}


@dataclass
class Stage:
    """A work that is set up.

    Attributes:
        place: its folder.
        rows: how many there are.
        expected: of all rows, in order.
        quick: in small sizes.
    """

    name: str
    work: Work
    place: Path
    rows: int
    expected: npt.NDArray[np.float32]
    quick: bool
    environ: dict[str, str] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=count)

    def fresh_output(self) -> Path:
        """A path at which nothing stands; the output before it goes."""
        for old in self.place.glob("out-*"):
            remove_output(old)
        return self.place / f"out-{next(self._numbers)}"

    def order(self, output: Path, **more: Any) -> dict[str, Any]:
        """What is asked of a system."""
        model, parts, lists = (self.place / name for name in ("model.keras", "parts", "lists"))
        return {
            "work": self.name,
            "model": str(model) if model.exists() else None,
            "data": str(self.place / ("data" if self.name == "parquet" else "rows.npy")),
            "parquet": str(parts) if parts.exists() else None,
            "lists": str(lists) if lists.exists() else None,
            "output": str(output),
            "batch_rows": self.work.batch_rows,
            "bfloat16": self.allowed,
            "row_shape": self.work.row_shape,
            "dtype": "uint8" if len(self.work.row_shape) == 3 else "float32",
            "output_shape": self.work.output_shape,
            "callers": CALLERS,
            "requests": self.rows,
            **more,
        }

    @property
    def allowed(self) -> dict[str, float]:
        """The key of a manifest that lets ours use bfloat16, where it may."""
        kind = self.work.bfloat16
        return {kind: ALLOWED[kind]} if kind else {}

    def check(self, output: Path, variant: str = "") -> None:
        """Hold all of an output against what one process gives; raise WrongOutputError."""
        try:
            if self.name == "parquet":
                check_values(output, self.expected)
            else:
                check_rows(output, self.expected, self.allowed if variant == "bfloat16" else {})
        except (OSError, EOFError, ValueError, pa.ArrowException) as error:  # whatever a system may leave
            raise WrongOutputError(f"{type(error).__name__}: {one_line(error)}") from error


@contextmanager
def set_up(name: str, quick: bool) -> Iterator[Stage]:
    """Make models, rows and expected outputs, on a disk, for as long as they are needed."""
    work = WORKS[name]
    # On a disk, where most people's rows are: a folder in memory would not show what is written.
    with folder(in_memory=False) as place:
        environ = {"CELERIAC_CACHE": str(place / "cache"), "CELERIAC_INTRA_OP_THREADS": "1"}
        if name == "parquet":
            sums = [*write_tables(place / "data", _PARQUET_GROUPS[quick])]
            yield Stage(name, work, place, sum(map(len, sums)), np.sort(np.concatenate(sums)), quick, environ)
            return
        if name == "fit":
            calibrate()
            environ |= {LOOPS: os.environ[LOOPS]}
        rows = _rows(work, work.rows[quick])
        np.save(place / "rows.npy", rows)
        np.save(place / "calibration.npy", _rows(work, _CALIBRATION_ROWS))
        run_apart("benchmarks.peers.works_models", "write", work.model[quick], str(place))
        run_apart(
            "benchmarks.peers.works_models", "fit" if name == "fit" else "predict", str(place), str(work.batch_rows)
        )
        if name not in ("fit", "requests"):
            write_parts(place, rows)
        yield Stage(name, work, place, len(rows), np.load(place / "expected.npy"), quick, environ)


def write_tables(folder: Path, groups: int) -> Iterator[npt.NDArray[np.float32]]:
    """Files of columns of numbers, none like another; what the model gives for each."""
    folder.mkdir()
    for number in range(_PARQUET_FILES):
        write_file(path := folder / f"part-{number:05}.parquet", groups, seed=number)
        table = pq.read_table(path)
        yield total({column: table[column].to_numpy() for column in table.column_names})


def write_parts(place: Path, rows: npt.NDArray[Any]) -> None:
    """The rows as Parquet, in so many files that all have some to do: `id`, and `row`, its bytes or its values."""
    for kind in ("parts", "lists"):
        (place / kind).mkdir()
    for number, start in enumerate(range(0, len(rows), size := -(-len(rows) // _PARTS))):
        part = rows[start : start + size].reshape(len(rows[start : start + size]), -1)
        columns = {"parts": as_bytes(part), "lists": pa.FixedSizeListArray.from_arrays(part.ravel(), part.shape[1])}
        for kind, column in columns.items():
            table = pa.table({"id": np.arange(start, start + len(part)), "row": column})
            path = place / kind / f"part-{number:05}.parquet"
            pq.write_table(table, path, use_dictionary=False, compression="none")


def _rows(work: Work, rows: int) -> npt.NDArray[Any]:
    """Distinct rows, other ones for another number of them."""
    random = np.random.default_rng(rows)
    if len(work.row_shape) == 3:
        return digits(rows, random, work.row_shape[0] // 8)[0]
    return random.standard_normal((rows, *work.row_shape), np.float32)
