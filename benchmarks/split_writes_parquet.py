"""Parquet to Parquet: the rows of `split_reads` through its model, a sum, into a folder of Parquet files.

Rivals are two plain processes that read, decode, compute and write every second file's row groups with pyarrow, by its
defaults, and with the settings that ours has. Theirs too have each row's number, but nothing to go on from.
"""

from __future__ import annotations

import os
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from benchmarks.harness import Arm, check_equal, compare
from benchmarks.report import Finding, at_least, report_comparison
from benchmarks.split_reads import COLUMNS, GROUP_ROWS, write_file, write_links
from benchmarks.split_reads_model import BATCH_ROWS, total
from benchmarks.stage import CHILDREN, Rivals, folder
from producer import Client, local
from producer.outputs.predict_to_sink import ending, predict_to_sink
from producer.outputs.run_options import RunOptions
from producer.sinks import JournalHead, open_sink
from producer.sources import open_source

FILES, GROUPS = 6, 24  # 192 MiB a file
SPEED_AIM, THRIFT_AIM = 0.6, 1.0
_SCHEMA = pa.schema([("row", pa.int64()), ("output", pa.float32())])
# As `tasks/outputs/arrow.py` has them.
_OURS = {"use_dictionary": [], "column_encoding": {"row": "DELTA_BINARY_PACKED"}}


def from_parquet(quick: bool) -> bool:
    """Measure it; return whether the machine was quiet."""
    groups = 2 if quick else GROUPS
    rivals = Rivals(convert)
    with folder() as place:
        os.environ["CELERIAC_DATA_ROOTS"] = str(place)
        write_file(place / "x.parquet", groups)
        table = pq.read_table(place / "x.parquet")
        expected = np.tile(total({name: table.column(name).to_numpy() for name in table.column_names}), FILES)
        del table
        data = write_links(place, "data", FILES)
        (place / "models.toml").write_text(
            f'[models.total]\npath = "benchmarks.split_reads_model:total"\nbatch_rows = {BATCH_ROWS}\n'
        )
        check = partial(_check, expected)
        with local(models=place / "models.toml", workers=CHILDREN) as client:
            ours = Arm("folder, by workers", lambda: convert_by_workers(client, data, place / "ours.parquet"), check)
            plain, alike = (
                Arm(name, partial(_convert_apart, rivals, data, place / f"{name}.parquet", alike), check)
                for name, alike in (("plain pyarrow", False), ("pyarrow, our settings", True))
            )
            found = compare(ours, [plain, alike])
    return report_comparison(
        "split_writes: Parquet to Parquet",
        found,
        len(expected),
        {"columns": COLUMNS, "group_rows": GROUP_ROWS, "files": FILES, "children": CHILDREN},
        [
            at_least("rows a second, of plain pyarrow", found.speed_against(plain.name), SPEED_AIM),
            at_least("rows for a processor second, of plain pyarrow", found.thrift_against(plain.name), THRIFT_AIM),
            Finding("rows a second, of pyarrow with our settings", str(found.speed_against(alike.name))),
            Finding("rows for a processor second, of the same", str(found.thrift_against(alike.name))),
        ],
        quick=quick,
    )


def convert_by_workers(client: Client, data: str, output: Path) -> Path:
    """A job from files to files."""
    source = open_source(data)
    head = JournalHead(source={"name": "data"}, models=client.digests(["total"]))
    with ending(open_sink(output, source.rows, True, journal=head, in_parts=True)) as sink:
        predict_to_sink(client, ["total"], source, sink, head, RunOptions(quiet=True))
    return output


def _convert_apart(rivals: Rivals, data: str, output: Path, alike: bool) -> Path:
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir()
    rivals.begin(*((data, number, str(output), alike) for number in range(CHILDREN)))
    rivals.finish()
    return output


def convert(data: str, number: int, output: str, alike: bool) -> None:
    """A rival: every second file, row group by row group."""
    settings = _OURS if alike else {}
    first = 0
    for at, path in enumerate(sorted(Path(data).iterdir())):
        with pq.ParquetFile(path) as opened:
            if at % CHILDREN == number:
                with pq.ParquetWriter(f"{output}/{path.name}", _SCHEMA, **settings) as writer:
                    for group in range(opened.metadata.num_row_groups):
                        table = opened.read_row_group(group, use_threads=False)
                        sums = total({name: table.column(name).to_numpy() for name in table.column_names})
                        numbers = np.arange(first, first + len(sums))
                        writer.write_table(pa.table([numbers, sums], schema=_SCHEMA))
                        first += len(sums)
            else:
                first += opened.metadata.num_rows


def _check(expected: np.ndarray, output: Path) -> None:  # type: ignore[type-arg]
    table = ds.dataset(output, format="parquet").to_table()
    check_equal(table["row"].to_numpy(), np.arange(len(expected)))
    check_equal(table["output"].to_numpy(), expected)
