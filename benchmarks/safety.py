"""What does it cost that nothing is lost, on a day on which nothing goes wrong?

The same job twice, from rows in memory to a finished `.npy` file, through two systems that stand side by side. Ours has
everything on: rows that fail are found (`on_error="skip"`), deliveries are counted, outputs have a checksum, the
producer looks for chunks that are overdue, and a journal beside the output is brought to the disk once a second. The
rival has none of it: what has no switch is taken out (in the worker by `benchmarks/unsafe.py`), its job ends with the
first row that fails, and its output has no journal. That a chunk is acknowledged when it is done is Celery's part: both
have it, as they have the join, which drops duplicates, and the ledger.

Chunks of ordinary size, of 0.1 to 0.25 s of model time; and the smallest that there are, of one row of 64 bytes.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from pathlib import Path
from statistics import median
from typing import cast
from unittest.mock import patch

import numpy as np
import numpy.typing as npt

from benchmarks.harness import MIN_BLOCKS, Arm, Comparison, WrongOutputError, check_equal, compare
from benchmarks.models import in_one_process, write_models
from benchmarks.report import Finding, at_least, report_comparison
from benchmarks.stage import CHILDREN, ask, folder, random_rows, rival_system
from producer import Client, local
from producer.job.resend import Resender
from producer.sinks import JournalHead, open_sink
from tasks.transport.connection import connect

AIM = 0.98
# What is sought is smaller than what the same arm differs from itself: more blocks narrow it.
BLOCKS = 11
# name: (rows, rows when quick, rows in a chunk)
JOBS = {"mlp": (16_384, 2_048, 512), "small_identity": (2_000, 500, 1)}


def question(quick: bool) -> bool:
    """Compare ordinary chunks and small ones; return whether the machine was quiet each time."""
    with folder() as place, folder(in_memory=False) as disk:
        models = write_models(place)
        with local(models, CHILDREN) as safe, rival_system(models, "benchmarks.unsafe") as unsafe:
            quiet = [_compare(safe, unsafe, place, disk, name, quick) for name in JOBS]
            _check_counted(safe, True)
            _check_counted(unsafe, False)
    return all(quiet)


def _compare(safe: Client, unsafe: Client, place: Path, disk: Path, name: str, quick: bool) -> bool:
    many, few, chunk_rows = JOBS[name]
    data = random_rows(name, few if quick else many)
    expected = data if name == "small_identity" else in_one_process(place, name, data)
    check = partial(check_equal, expected=expected, exactly=name == "small_identity")
    on = Arm("nothing is lost", partial(_run, safe, name, data, chunk_rows, disk / "safe.npy", True), check)
    off = Arm("all of it off", partial(_run, unsafe, name, data, chunk_rows, disk / "unsafe.npy", False), check)
    comparison = compare(on, [off], MIN_BLOCKS if quick else BLOCKS)
    speed = comparison.speed_against(off.name)
    what = "on / off"
    return report_comparison(
        f"safety: {name}",
        comparison,
        len(data),
        {"children": CHILDREN, "chunk rows": chunk_rows},
        [
            Finding(what, str(speed)) if chunk_rows == 1 else at_least(what, speed, AIM),
            Finding("its cost for a chunk", f"{_cost(comparison, off.name, len(data) // chunk_rows) * 1e3:.2f} ms"),
        ],
        quick=quick,
    )


def _run(
    client: Client, name: str, data: npt.NDArray[np.float32], chunk_rows: int, path: Path, safe: bool
) -> npt.NDArray[np.float32]:
    """As `celeriac predict` does it; the clock runs until the output has its name."""
    head = JournalHead(source={}, models=client.digests(name), on_error="skip") if safe else None
    with nullcontext() if safe else patch.object(Resender, "late", lambda *_: None):
        sink = open_sink(path, len(data), force=True, journal=head)
        for part in client.submit(name, data, chunk_rows=chunk_rows, on_error="skip" if safe else "raise").parts():
            sink.write(part)
        sink.commit()
    return cast("npt.NDArray[np.float32]", np.load(path))


def _cost(comparison: Comparison, off: str, chunks: int) -> float:
    """Seconds of wall clock that each chunk takes longer, in the median block."""
    on = zip(comparison.seconds[comparison.ours], comparison.control_seconds, strict=True)
    return median(sum(both) / 2 - other for both, other in zip(on, comparison.seconds[off], strict=True)) / chunks


def _check_counted(client: Client, counted: bool) -> None:
    """Make sure that the one system counts deliveries, and the other does not: else we measured something else."""
    with connect(client.broker_url) as server:
        calls = (
            cast("dict[str, dict[str, int]]", server.info("commandstats")).get("cmdstat_hincrby", {}).get("calls", 0)
        )
    if bool(calls) is not counted:
        raise WrongOutputError(f"deliveries were counted {calls} times where they should {'' if counted else 'not '}be")


if __name__ == "__main__":
    ask(question, __doc__)
