"""A storm of kills over a command whose output workers write, drawn from a seed, while somebody reads the output.

seed --> kills, each at a moment: so many rows safe in the journal --> the command, killed and resumed, ends
"""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from producer.scheduling.payload_route import choose_store
from producer.sources import open_source
from tests.acceptance.commands import Celeriac, Ended, Running
from tests.chaos.arena import WORKERS, Arena
from tests.chaos.kills import kill_child, kill_redis, kill_worker
from tests.chaos.schedule import LARGE
from tests.forms import LONG
from tests.output_sets import names_in
from tests.waiting import wait_until
from worker_config.errors import ExitCode

Kill: TypeAlias = Callable[[Arena, random.Random], None]

CHUNKS = 200 if LONG else 150
ROWS = CHUNKS * LARGE
PACE_SECONDS = 0.05
FILES = 3
# Where workers read the rows themselves: what the model takes, and what is kept beside the outputs.
SPLIT_WORDS = ("--columns", "pixels", "--keep", "id")
# Of some 2,000 rows, as the producer says: a file may end with any of them, and chunks do not.
SMALL_BLOCKS = f"""#!{sys.executable}
import sys

from producer.cli import main
from tasks.outputs import zarr

zarr.ZARR_BLOCK_BYTES = 2**19
sys.exit(main())
"""


def command(arena: Arena) -> Celeriac:
    """The command, in a folder beneath which workers may write."""
    celeriac = Celeriac(arena.new_folder())
    celeriac.program = celeriac.root / "with-small-blocks"
    celeriac.program.write_text(SMALL_BLOCKS)
    celeriac.program.chmod(0o755)
    return celeriac


def split_tables(arena: Arena) -> list[pa.Table]:
    """All rows, cut into files, as those who read them by splits find them."""
    pixels = arena.rows[:ROWS]
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(pixels.ravel()), pixels.shape[1])
    table = pa.table({"pixels": vectors, "id": ids(len(pixels))})
    file_rows = -(-len(table) // FILES)
    return [table.slice(start, file_rows) for start in range(0, len(table), file_rows)]


def write_split(table: pa.Table, path: Path) -> Path:
    pq.write_table(table, path, row_group_size=3 * LARGE + 7)
    return path


def check_cut(arena: Arena, rows: Path | str) -> None:
    """Workers read these rows themselves, by splits."""
    source = open_source(rows, columns=["pixels"])
    assert choose_store(source, arena.system.slots(), arena.system.settings(), None)[0] == "slices"


def ids(rows: int) -> list[str | None]:
    return [f"id {row}" if row % 5 else None for row in range(rows)]


def check_rows(tables: Sequence[pa.Table], expected: np.ndarray) -> int:
    """The tables, one after the other, are the first rows of the output, with what was kept; returns how many."""
    count = 0
    for table in tables:
        stop = count + len(table)
        np.testing.assert_array_equal(table["row"].to_numpy(), np.arange(count, stop))
        values = table.column(table.num_columns - 1).combine_chunks().flatten().to_numpy().reshape(len(table), -1)
        np.testing.assert_array_equal(values, expected[count:stop])
        if "id" in table.column_names:
            assert table["id"].to_pylist() == ids(stop)[count:]
        count = stop
    return count


def check_readers(folder: Path, expected: np.ndarray) -> None:
    """Each of three finds all rows in files of Parquet, in order; none is told how."""
    for table in (
        ds.dataset(folder).to_table(),
        duckdb.sql(f"FROM read_parquet('{folder}/*.parquet')").to_arrow_table(),
        pl.scan_parquet(folder).collect().to_arrow(),
    ):
        assert check_rows([table], expected) == len(expected)
    assert len(names_in(folder)) > 2


def ride_out(
    arena: Arena,
    seed: int,
    celeriac: Celeriac,
    words: Sequence[object],
    safe_rows: Callable[[], int],
    look: Callable[[], int],
    more_kills: Sequence[Kill] = (),
) -> Ended:
    """Run `celeriac predict digits WORDS` through its storm; `look` reads what is there, and says how many rows."""
    arena.bring_up(WORKERS)
    arena.set_pace(PACE_SECONDS)
    draw = random.Random(seed)  # noqa: S311
    kinds: list[Kill | None] = [kill_child, kill_worker, kill_redis, None, *more_kills]  # None: the producer
    count = len(kinds) + (3 if LONG else 0)
    # Each at least once.
    kills = draw.sample([*kinds, *draw.choices(kinds, k=count - len(kinds))], count)
    moments = sorted(draw.sample(range(CHUNKS // 20, CHUNKS * 8 // 10), count))

    def start(*more: str) -> Running:
        options = ["--part-mib", 1, "--chunk-rows", LARGE, "--broker", arena.system.url, "--quiet", "--json", *more]
        return celeriac.start("predict", "digits", *words, *options, fresh=True)

    with _looking(look) as has_seen:
        running = start()
        for moment, kill in zip(moments, kills, strict=True):

            def its_moment(running: Running = running, rows: int = moment * LARGE) -> bool:
                running.check_running()
                return safe_rows() >= rows

            wait_until(its_moment, f"chunk {moment} is safe")
            if kill:
                kill(arena, draw)
            else:
                running.process.kill()
                running.process.wait()
                running = start("--resume")
        ended = running.end()
        assert ended.code == ExitCode.OK, ended
        wait_until(has_seen, "somebody has looked")
    ledger = ended.json["ledger"]
    assert (ledger["rows"], ledger["predicted"], ledger["written"]) == (ROWS,) * 3
    arena.bring_up(WORKERS)
    return ended


@contextmanager
def _looking(look: Callable[[], int]) -> Iterator[Callable[[], bool]]:
    """Read what there is, again and again, until the end of the block; whether that has been something."""
    over, found = threading.Event(), list[str]()
    seen = 0

    def looks() -> None:
        nonlocal seen
        try:
            while not over.wait(0.05):
                count = look()
                assert count >= seen, "what was there stays"
                seen = count
        except BaseException as error:
            found.append(repr(error))

    thread = threading.Thread(target=looks)
    thread.start()
    try:
        yield lambda: bool(seen or found)
    finally:
        over.set()
        thread.join()
    assert found == []
