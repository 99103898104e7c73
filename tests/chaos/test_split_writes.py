"""A folder that workers write, under a storm of kills: children, workers, the producer, Redis.

What three readers find at the end is what one process makes of the rows, in order, in files that are numbered without a
gap, or in a Zarr store; and whoever looks meanwhile finds the beginning of it.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import redis
import zarr

from producer.sinks.journal import journal_path
from tests.acceptance.commands import Celeriac, Running
from tests.chaos.arena import WORKERS, Arena
from tests.chaos.schedule import LARGE
from tests.chaos.test_lost_producer import safe_rows
from tests.forms import LONG
from tests.output_sets import assert_nothing_beside, names_in
from tests.waiting import descendants_of, is_alive, wait_until
from worker_config.errors import ExitCode

SEEDS = range(30 if LONG else 2)
CHUNKS = 200 if LONG else 150
INJURIES = 6 if LONG else 4
PACE_SECONDS = 0.05
ROWS = CHUNKS * LARGE
# Of some 2,000 rows, as the producer says: a file may end with any of them, and chunks do not.
SMALL_BLOCKS = f"""#!{sys.executable}
import sys

from producer.cli import main
from tasks.outputs import zarr

zarr.ZARR_BLOCK_BYTES = 2**19
sys.exit(main())
"""


@pytest.mark.parametrize("suffix", [".parquet", ".zarr"])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_storm_of_kills_leaves_no_trace_in_the_output(arena: Arena, seed: int, suffix: str) -> None:
    arena.bring_up(WORKERS)
    arena.set_pace(PACE_SECONDS)
    draw = random.Random(seed)  # noqa: S311
    rows, expected = arena.rows[:ROWS], arena.expected[:ROWS]
    celeriac = Celeriac(arena.new_folder())
    celeriac.program = celeriac.root / "with-small-blocks"
    celeriac.program.write_text(SMALL_BLOCKS)
    celeriac.program.chmod(0o755)
    np.save(celeriac.folder / "rows.npy", rows)
    output = celeriac.folder / f"out{suffix}"
    # Each of the four at least once, if there are so many.
    kinds = [kill_child, kill_worker, kill_redis]
    injuries = draw.sample([*kinds, None, *draw.choices([*kinds, None], k=INJURIES - 4)], INJURIES)
    moments = sorted(draw.sample(range(CHUNKS // 20, CHUNKS * 8 // 10), INJURIES))

    def start(*more: str) -> Running:
        words = [
            "rows.npy",
            "-o",
            f"out{suffix}/",
            "--part-mib",
            1,
            "--chunk-rows",
            LARGE,
            "--broker",
            arena.system.url,
        ]
        return celeriac.start("predict", "digits", *words, "--quiet", "--json", *more, fresh=True)

    with _looking(output, expected) as looks:
        running = start()
        for moment, injure in zip(moments, injuries, strict=True):

            def its_moment(running: Running = running, rows: int = moment * LARGE) -> bool:
                running.check_running()
                return safe_rows(journal_path(output)) >= rows

            wait_until(its_moment, f"chunk {moment} is safe")
            if injure:
                injure(arena, draw)
            else:
                running.process.kill()
                running.process.wait()
                running = start("--resume")
        ended = running.end()
        assert ended.code == ExitCode.OK, ended
        wait_until(lambda: looks(), "somebody has looked")
    ledger = ended.json["ledger"]
    assert (ledger["rows"], ledger["predicted"], ledger["written"]) == (ROWS,) * 3
    assert_nothing_beside(output)
    if suffix == ".zarr":
        np.testing.assert_array_equal(_first_rows(output, expected[:0]), expected)
    else:
        assert len(names_in(output)) > 2
        _check_readers(output, expected)
    arena.bring_up(WORKERS)


def _check_readers(output: Path, expected: np.ndarray) -> None:
    """Each finds all rows, in order; none is told how."""
    column = pq.read_schema(output / "part-00000.parquet").names[1]
    arrow = ds.dataset(output).to_table()
    duck = duckdb.sql(f"SELECT row, {column} FROM read_parquet('{output}/*.parquet')").to_arrow_table()  # noqa: S608
    frame = pl.scan_parquet(output).collect()
    for numbers, values in (
        (arrow["row"].to_numpy(), arrow[column].to_pylist()),
        (duck["row"].to_numpy(), duck[column].to_pylist()),
        (frame["row"].to_numpy(), frame[column].to_list()),
    ):
        np.testing.assert_array_equal(numbers, np.arange(len(expected)))
        np.testing.assert_array_equal(np.array(values, np.float32), expected)


@contextmanager
def _looking(output: Path, expected: np.ndarray) -> Iterator[Callable[[], bool]]:
    """Read what there is, again and again, until the end of the block; whether that has been something."""
    over, found = threading.Event(), list[str]()
    seen = 0

    def look() -> None:
        nonlocal seen
        try:
            while not over.wait(0.05):
                values = _first_rows(output, expected[:0])
                np.testing.assert_array_equal(values, expected[: len(values)])
                assert len(values) >= seen, "what was there stays"
                seen = len(values)
        except BaseException as error:
            found.append(repr(error))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield lambda: bool(seen or found)
    finally:
        over.set()
        thread.join()
    assert found == []


def _first_rows(output: Path, none: np.ndarray) -> Any:
    """The values that there are, in order; `none` as long as there is no file."""
    if output.suffix == ".zarr":
        return zarr.open_array(output, mode="r")[:] if (output / "zarr.json").exists() else none
    tables = [pq.read_table(output / name) for name in (names_in(output) if output.exists() else [])]
    numbers = [number for table in tables for number in table["row"].to_pylist()]
    assert numbers == [*range(len(numbers))]
    values = [table.column(1).combine_chunks().flatten().to_numpy().reshape(len(table), -1) for table in tables]
    return np.concatenate([none, *values])


def kill_child(arena: Arena, draw: random.Random) -> None:
    children = [pid for worker in arena.ready_workers() for pid in descendants_of(worker.pid)]
    if children:
        pid = draw.choice(children)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not is_alive(pid), "the child is dead")


def kill_worker(arena: Arena, draw: random.Random) -> None:
    there = [worker for worker in arena.ready_workers() if worker not in arena.dismissed]
    if there:
        arena.kill(draw.choice(there))
        arena.start_worker()


def kill_redis(arena: Arena, draw: random.Random) -> None:
    arena.system.redis.stop()
    if draw.random() < 0.5:
        arena.system.redis.forget()
    arena.system.redis.start()
    arena.pids.add(arena.system.redis.pid)

    def answers() -> bool:
        with suppress(redis.RedisError):
            return bool(arena.hasty.ping())
        return False

    wait_until(answers, "Redis answers")
