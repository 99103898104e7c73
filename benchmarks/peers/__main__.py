"""Parquet to Parquet, against Ray Data: how many rows a second, and how many rows for a processor second?

Eight columns of floats in row groups of 131,072 rows, in ten files; the model is a sum, so that reading and writing is
nearly all there is to do. Both have two processors, stand ready, read where the files are, and write a folder of
Parquet files. Ours are in order, have each row's number, and could be continued; Ray's are not, have not, could not.
"""

from __future__ import annotations

import os
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds

from benchmarks.harness import Arm, WrongOutputError, compare
from benchmarks.peers.environments import Peer
from benchmarks.report import Finding, at_least, report_comparison
from benchmarks.split_reads import COLUMNS, GROUP_ROWS, GROUPS, write_file, write_links
from benchmarks.split_reads_model import BATCH_ROWS
from benchmarks.split_writes_parquet import convert_by_workers
from benchmarks.stage import CHILDREN, ask, folder
from producer import local

FILES = 10
THRIFT_AIM = 2.0


def question(quick: bool) -> bool:
    """Measure it; return whether the machine was quiet."""
    groups = 2 if quick else GROUPS
    with folder() as place:
        os.environ["CELERIAC_DATA_ROOTS"] = str(place)
        expected = FILES * write_file(place / "x.parquet", groups)
        data = write_links(place, "data", FILES)
        (place / "models.toml").write_text(
            f'[models.total]\npath = "benchmarks.split_reads_model:total"\nbatch_rows = {BATCH_ROWS}\n'
        )
        rows = FILES * groups * GROUP_ROWS
        check = partial(_check, expected, rows)
        with local(models=place / "models.toml", workers=CHILDREN) as client, Peer("ray_data", str(CHILDREN)) as peer:
            ours = Arm("celeriac", partial(convert_by_workers, client, data, place / "ours.parquet"), check)
            ray = Arm("Ray Data", partial(_peer, peer, data, place / "ray.parquet"), check)
            found = compare(ours, [ray])
    return report_comparison(
        "peers: Parquet to Parquet",
        found,
        rows,
        {"columns": COLUMNS, "group_rows": GROUP_ROWS, "files": FILES, "processors": CHILDREN},
        [
            at_least("rows for a processor second, of Ray's", found.thrift_against(ray.name), THRIFT_AIM),
            Finding("rows a second, of Ray's", str(found.speed_against(ray.name))),
        ],
        quick=quick,
    )


def _peer(peer: Peer, data: str, output: Path) -> Path:
    shutil.rmtree(output, ignore_errors=True)
    peer.ask(data=data, output=str(output))
    return output


def _check(expected: float, rows: int, output: Path) -> None:
    values = ds.dataset(output, format="parquet").to_table(columns=["output"])["output"].to_numpy()
    found = float(np.sum(values, dtype=np.float64))
    if len(values) != rows or abs(found / expected - 1) > 1e-6:
        raise WrongOutputError(f"{output.name}: {len(values)} rows, whose sum is {found}; not {rows} and {expected}")


if __name__ == "__main__":
    ask(question, __doc__)
