"""What do rows of Parquet files cost the producer, and how fast are they read, where workers read them themselves?

Eight columns of floats in row groups of 131,072 rows; the model is a sum, so that reading is nearly all there is to do.

- Speed, against two plain processes that read, decode, sum and write the same row groups with pyarrow, every second one
  each. Ours hands the outputs over to the caller; theirs go into Parquet files.
- The producer's processor seconds, in a process of its own, against those of the same job with rows that it reads and
  sends (`store="files"`); and those of 1,000 chunks for what reading adds to a chunk: cutting, and a larger message.
- The producer's memory, for little data and for a hundred times as much (the same file by other names).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.harness import Arm, WrongOutputError, compare
from benchmarks.report import Finding, at_least, report, report_comparison
from benchmarks.split_reads_model import BATCH_ROWS, total
from benchmarks.stage import CHILDREN, Rivals, ask, folder
from producer import Client, local
from producer.sources import open_parquet
from tasks.protocol.messages import InlineRef, cut_in_place, pack

COLUMNS, GROUP_ROWS, GROUPS = 8, 131_072, 24  # 192 MiB a file
SPEED_AIM, CPU_AIM, CHUNK_AIM_SECONDS, MEMORY_AIM = 0.6, 0.1, 0.03, 1.1


def question(quick: bool) -> bool:
    """Measure speed, processor seconds and memory; return whether the machine was quiet."""
    groups, few, many = (2, 2, 20) if quick else (GROUPS, 10, 100)
    rivals = Rivals(read_groups)
    with folder() as place:
        os.environ["CELERIAC_DATA_ROOTS"] = str(place)
        expected = few * write_file(place / "x.parquet", groups)
        small, large = write_links(place, "small", few), write_links(place, "large", many)
        (place / "models.toml").write_text(
            f'[models.total]\npath = "benchmarks.split_reads_model:total"\nbatch_rows = {BATCH_ROWS}\n'
        )
        with local(models=place / "models.toml", workers=CHILDREN) as client:
            ours = Arm("celeriac", lambda: _sum(client, small), partial(_check, expected))
            plain = Arm("pyarrow", lambda: _read_apart(rivals, place, small), partial(_check, expected))
            found = compare(ours, [plain])
            sizes = {"columns": COLUMNS, "group_rows": GROUP_ROWS, "children": CHILDREN, "files": few}
            quiet = report_comparison(
                "split_reads: speed",
                found,
                few * groups * GROUP_ROWS,
                sizes,
                [at_least("celeriac / pyarrow", found.speed_against(plain.name), SPEED_AIM)],
                quick=quick,
            )
            runs = [(_job(client, small, None), _job(client, small, "files")) for _ in range(3)]
            whole = _job(client, large, None)
        share = float(np.median([split["cpu_seconds"] / sent["cpu_seconds"] for split, sent in runs]))
        chunk_seconds = _chunk_seconds(large)
        memory = whole["peak_bytes"] / runs[0][0]["peak_bytes"]
        findings = [
            Finding("producer's processor seconds, of those with sending", f"{share:.3f}", "<= 0.10", share <= CPU_AIM),
            Finding(
                "reading, processor seconds of 1,000 chunks",
                f"{chunk_seconds:.4f}",
                f"<= {CHUNK_AIM_SECONDS}",
                chunk_seconds <= CHUNK_AIM_SECONDS,
            ),
            Finding(f"memory, {many} files against {few}", f"{memory:.3f}", f"<= {MEMORY_AIM}", memory <= MEMORY_AIM),
        ]
        measured = {"runs": runs, "large": whole}
        report("split_reads: producer", sizes, findings, void=False, quick=quick, measured=measured)
    return quiet


def write_file(path: Path, groups: int, seed: int = 0) -> float:
    """A file, and the sum of its values."""
    values, whole = np.random.default_rng(seed), 0.0
    schema = pa.schema([(f"c{column}", pa.float64()) for column in range(COLUMNS)])
    with pq.ParquetWriter(path, schema, compression="snappy", use_dictionary=False) as writer:
        for _ in range(groups):
            columns = [values.random(GROUP_ROWS) for _ in range(COLUMNS)]
            whole += float(np.sum(columns))
            writer.write_table(pa.table(columns, schema=schema), row_group_size=GROUP_ROWS)
    return whole


def write_links(place: Path, name: str, count: int) -> str:
    """The same file by many names; and beside it a folder with one, to warm up."""
    for kind, files in ((name, count), (f"{name}-warm", 1)):
        (place / kind).mkdir()
        for number in range(files):
            (place / kind / f"part-{number:05}.parquet").hardlink_to(place / "x.parquet")
    return str(place / name)


def _sum(client: Client, data: str) -> float:
    return sum(float(part.outputs.sum(dtype=np.float64)) for part in client.submit("total", data).parts())  # type: ignore[union-attr]


def _check(expected: float, found: float) -> None:
    if abs(found / expected - 1) > 1e-6:
        raise WrongOutputError(f"the sum of all outputs is {found}, not {expected}")


def _read_apart(rivals: Rivals, place: Path, data: str) -> float:
    rivals.begin(*((data, number, str(place / f"rival-{number}.parquet")) for number in range(CHILDREN)))
    rivals.finish()
    tables = [pq.read_table(place / f"rival-{number}.parquet") for number in range(CHILDREN)]
    return sum(float(np.sum(table.column(0).to_numpy(), dtype=np.float64)) for table in tables)


def read_groups(data: str, number: int, output: str) -> None:
    """A rival: every second row group, through to a file."""
    at = 0
    with pq.ParquetWriter(output, pa.schema([("output", pa.float32())])) as writer:
        for path in sorted(Path(data).iterdir()):
            with pq.ParquetFile(path) as opened:
                for group in range(opened.metadata.num_row_groups):
                    at += 1
                    if at % CHILDREN == number:
                        table = opened.read_row_group(group, use_threads=False)
                        rows = {name: table.column(name).to_numpy() for name in table.column_names}
                        writer.write_table(pa.table({"output": total(rows)}))


def _job(client: Client, data: str, store: str | None) -> Any:
    told = json.dumps({"broker": client.broker_url, "data": data, "warm": data + "-warm", "store": store})
    command = [sys.executable, "-m", "benchmarks.split_reads_job", told]
    spool = {"CELERIAC_SPOOL": str(client._settings.spool)}
    ended = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **spool})
    return json.loads(ended.stdout.splitlines()[-1])


def _chunk_seconds(data: str) -> float:
    """What 1,000 chunks cost the producer for being read in place: where each ends, its ref, a larger message."""
    splits = open_parquet(data).splits.open()  # type: ignore[union-attr]
    whole = splits.in_place()
    rows = splits.rows // 1_000
    began = time.process_time()
    for at in range(1_000):
        count = splits.cut_rows(at * rows, rows, fixed=True)
        pack(cut_in_place(whole, at * rows, at * rows + count))  # type: ignore[arg-type]
    with_refs = time.process_time() - began
    began = time.process_time()
    for _ in range(1_000):
        pack(InlineRef(b""))
    return with_refs - (time.process_time() - began)


if __name__ == "__main__":
    ask(question, __doc__)
