"""A folder that workers write, under a storm of kills: children, workers, the producer, Redis.

What three readers find at the end is what one process makes of the rows, in order, in files that are numbered without a
gap, or in a Zarr store; and whoever looks meanwhile finds the beginning of it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr

from producer.sinks.journal import journal_path
from tests.chaos.arena import Arena
from tests.chaos.storm import (
    ROWS,
    SPLIT_WORDS,
    check_cut,
    check_readers,
    check_rows,
    command,
    ride_out,
    split_tables,
    write_split,
)
from tests.forms import seeds
from tests.output_sets import assert_nothing_beside, names_in, safe_rows

# The rows, and the output; by seeds in turn.
FORMS = [("sent", ".parquet"), ("sent", ".zarr"), ("split", ".parquet")]


@pytest.mark.parametrize("seed", seeds(short=[0, 1, 2], long=60))
def test_a_storm_of_kills_leaves_no_trace_in_the_output(arena: Arena, seed: int) -> None:
    source, suffix = FORMS[seed % len(FORMS)]
    expected = arena.expected[:ROWS]
    celeriac = command(arena)
    output, rows = celeriac.folder / f"out{suffix}", celeriac.folder / "rows.npy"
    journal = journal_path(output)
    if source == "split":
        rows = arena.data / f"split-{seed}"
        rows.mkdir()
        for number, table in enumerate(split_tables(arena)):
            write_split(table, rows / f"{number}.parquet")
        check_cut(arena, rows)
    else:
        np.save(rows, arena.rows[:ROWS])
    words = [rows, "-o", f"{output}/", *(SPLIT_WORDS if source == "split" else ())]

    def look() -> int:
        if suffix == ".zarr":
            values: Any = zarr.open_array(output, mode="r")[:] if (output / "zarr.json").exists() else expected[:0]
            np.testing.assert_array_equal(values, expected[: len(values)])
            return len(values)
        names = names_in(output) if output.exists() else []
        return check_rows([pq.read_table(output / name) for name in names], expected)

    ride_out(arena, seed, celeriac, words, lambda: safe_rows(journal.read_bytes()) if journal.exists() else 0, look)
    assert_nothing_beside(output)
    assert look() == ROWS
    if suffix == ".parquet":
        check_readers(output, expected)
