"""How fast do workers write a data set, and what does it cost the producer?

Rows of 4 KiB in an `.npy` file that workers read themselves, through a function that doubles them, into Parquet. Ours
is a folder that workers write. Rivals: the same into one file, which the producer writes; and two plain processes that
read, compute, and write the same rows with pyarrow in row groups of the same size, each into files of its own, with no
order between them, no checks and nothing to go on from.

Then the same from Parquet to Parquet, of narrow rows (`benchmarks/split_writes_parquet.py`).

The producer's processor seconds are those of its thread in `Sink.write` and `commit`, and of the whole process, for
1,000 chunks, of which the ones of this run are smaller.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from benchmarks.harness import Arm, check_equal, compare
from benchmarks.report import Finding, at_least, report_comparison
from benchmarks.split_writes_parquet import from_parquet
from benchmarks.stage import CHILDREN, Rivals, ask, folder
from producer import Client, local
from producer.outputs.predict_to_sink import ending, predict_to_sink
from producer.outputs.run_options import RunOptions
from producer.sinks import JournalHead, Sink, open_sink
from producer.sources import open_source
from tasks.outputs.arrow import ROW_GROUP_BYTES

ROW_VALUES = 1_024
CHUNK_ROWS = 4_096
# Where chunks are counted.
SMALL_CHUNK_ROWS = 512
PART_BYTES = 128 * 2**20
AIM = 0.6
# Processor seconds of reading and writing for 1,000 chunks.
COST_AIM = 0.03
_MODEL = "def double(rows):\n    return rows * 2\n"


class _Cost:
    """The producer's processor seconds, summed over the runs of one arm."""

    def __init__(self) -> None:
        self.sink = self.process = 0.0
        self.chunks = 0

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Around one run."""
        started = time.process_time()
        with (
            patch.object(Sink, "write", self._timed(Sink.write)),
            patch.object(Sink, "commit", self._timed(Sink.commit)),
        ):
            yield
        self.process += time.process_time() - started

    def _timed(self, method: Callable[..., None]) -> Callable[..., None]:
        def run(*args: Any) -> None:
            started = time.thread_time()
            method(*args)
            self.sink += time.thread_time() - started
            self.chunks += method.__name__ == "write"

        return run


def question(quick: bool) -> bool:
    """Measure both; return whether the machine was quiet."""
    quiet = [from_slices(quick), from_parquet(quick)]
    return all(quiet)


def from_slices(quick: bool) -> bool:
    """Measure what is read by slices; return whether the machine was quiet."""
    rows = (64 if quick else 512) * 2**20 // (4 * ROW_VALUES)
    with folder() as place:
        np.save(place / "rows.npy", np.random.default_rng(1).random((rows, ROW_VALUES), np.float32))
        data = np.load(place / "rows.npy", mmap_mode="r")
        (place / "steps.py").write_text(_MODEL)
        (place / "models.toml").write_text('[models.double]\npath = "steps:double"\nbatch_rows = 512\n')
        split, single = _Cost(), _Cost()
        rivals = Rivals(_plain)

        def check(path: Path) -> None:
            table = ds.dataset(path).to_table() if path.is_dir() else pq.read_table(path)
            check_equal(table["row"].to_numpy(), np.arange(rows))
            values = table.column(1).combine_chunks().flatten().to_numpy().reshape(rows, ROW_VALUES)
            for start in range(0, rows, 65_536):
                check_equal(values[start : start + 65_536], data[start : start + 65_536] * 2)

        with local(models=place / "models.toml", workers=CHILDREN) as client:
            ours = Arm("folder, by workers", lambda: _run(client, place / "out.parquet", in_parts=True), check)
            through = Arm("file, by the producer", lambda: _run(client, place / "out1.parquet"), check)
            plain = Arm("plain pyarrow", lambda: _run_plain(rivals, place, rows), check)
            comparison = compare(ours, [through, plain])
            for _ in range(3):
                with split.measured():
                    _run(client, place / "out.parquet", SMALL_CHUNK_ROWS, in_parts=True)
                with single.measured():
                    _run(client, place / "out1.parquet", SMALL_CHUNK_ROWS)
    cost = split.sink / split.chunks * 1_000
    return report_comparison(
        "split_writes",
        comparison,
        rows,
        {"row_bytes": 4 * ROW_VALUES, "chunk_rows": CHUNK_ROWS, "children": CHILDREN},
        [
            at_least("folder / plain pyarrow", comparison.speed_against(plain.name), AIM),
            Finding("the same, rows for a processor second", str(comparison.thrift_against(plain.name))),
            Finding("folder / file, by the producer", str(comparison.speed_against(through.name))),
            Finding("sink, s per 1,000 chunks", f"{cost:.3f}", f"<= {COST_AIM:.2f}", cost <= COST_AIM),
            Finding("the same of a file", f"{single.sink / single.chunks * 1_000:.3f}"),
            Finding("producer in all, s per 1,000 chunks", f"{split.process / split.chunks * 1_000:.3f}"),
            Finding("the same with a file", f"{single.process / single.chunks * 1_000:.3f}"),
        ],
        quick=quick,
        measured={"split": vars(split), "single": vars(single)},
    )


def _run(client: Client, output: Path, chunk_rows: int = CHUNK_ROWS, *, in_parts: bool = False) -> Path:
    _clear(output)
    source = open_source(output.parent / "rows.npy")
    head = JournalHead(source={"name": "rows"}, models=client.digests(["double"]))
    with ending(open_sink(output, source.rows, True, journal=head, in_parts=in_parts)) as sink:
        if sink.folder:
            sink.folder.part_bytes = PART_BYTES
        predict_to_sink(client, ["double"], source, sink, head, RunOptions(chunk_rows=chunk_rows, quiet=True))
    return output


def _run_plain(rivals: Rivals, place: Path, rows: int) -> Path:
    output = place / "plain.parquet"
    _clear(output)
    output.mkdir()
    per_file = max(1, PART_BYTES // (4 * ROW_VALUES))
    starts = list(range(0, rows, per_file))
    half = -(-len(starts) // CHILDREN)
    rivals.begin(*((place, starts[at * half : (at + 1) * half], per_file, rows) for at in range(CHILDREN)))
    rivals.finish()
    return output


def _plain(place: Path, starts: list[int], per_file: int, rows: int) -> None:
    """What a process does with its share: read, compute, write."""
    data = np.load(place / "rows.npy", mmap_mode="r")
    column = pa.list_(pa.float32(), ROW_VALUES)
    schema = pa.schema([("row", pa.int64()), ("output", column)])
    group = ROW_GROUP_BYTES // (4 * ROW_VALUES)
    for start in starts:
        with pq.ParquetWriter(place / "plain.parquet" / f"part-{start:09d}.parquet", schema) as writer:
            for first in range(start, min(start + per_file, rows), group):
                values = np.array(data[first : min(first + group, start + per_file)]) * 2
                numbers = pa.array(np.arange(first, first + len(values)))
                array = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), type=column)
                writer.write_batch(pa.RecordBatch.from_arrays([numbers, array], schema=schema))


def _clear(output: Path) -> None:
    shutil.rmtree(output) if output.is_dir() else output.unlink(missing_ok=True)


if __name__ == "__main__":
    ask(question, __doc__)
