"""This module cuts a data set into chunks: how many rows each one has, and where each one starts and stops."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from worker_config.errors import UsageError

# Big enough that the costs of a message vanish, small enough that a window of chunks fits in any memory.
MAX_CHUNK_BYTES = 4 * 2**20

# So that slots that finish early find work, and the last chunks do not leave most slots idle.
CHUNKS_PER_SLOT = 8


@dataclass(frozen=True, slots=True)
class Chunk:
    """The rows `[start, stop)` of a data set; `index` counts chunks from 0."""

    index: int
    start: int
    stop: int

    @property
    def rows(self) -> int:
        """How many rows the chunk has."""
        return self.stop - self.start


def split(rows: int, chunk_rows: int) -> Iterator[Chunk]:
    """Cut `rows` rows into chunks of `chunk_rows`, the last one shorter; made one by one, as they are asked for.

    Zero rows give one chunk `[0, 0)`: an empty data set travels like any other, and comes back with the
    dtype and the row shape of the model.

    Raises:
        UsageError: `chunk_rows` is less than 1, or `rows` less than 0; raised at the call, not at the first chunk.
    """
    return (
        Chunk(index, index * chunk_rows, min((index + 1) * chunk_rows, rows))
        for index in range(count_chunks(rows, chunk_rows))
    )


def count_chunks(rows: int, chunk_rows: int) -> int:
    """How many chunks `split` gives for the same arguments; raises the same errors."""
    _check("rows", rows, least=0)
    _check("chunk_rows", chunk_rows, least=1)
    return max(1, -(-rows // chunk_rows))


def choose_chunk_rows(rows: int, row_bytes: float, slots: int, batch_rows: int) -> int:
    """Choose the rows of one chunk, before anything is measured.

    A chunk has at most `MAX_CHUNK_BYTES` (or one row, where a row is larger), and each slot gets at least
    `CHUNKS_PER_SLOT` chunks where that leaves whole batches; more than one batch is a multiple of `batch_rows`.

    Args:
        rows: rows of the data set.
        row_bytes: average bytes of one row.
        slots: prefork children that share the work.
        batch_rows: rows that the model sees in one call.

    Raises:
        UsageError: `rows` or `row_bytes` is less than 0, `slots` or `batch_rows` less than 1.
    """
    _check("rows", rows, least=0)
    _check("row_bytes", row_bytes, least=0)
    _check("slots", slots, least=1)
    _check("batch_rows", batch_rows, least=1)
    fair_share = rows // (slots * CHUNKS_PER_SLOT)
    chunk_rows = max(fair_share, min(batch_rows, rows))
    if chunk_rows * row_bytes > MAX_CHUNK_BYTES:
        chunk_rows = int(MAX_CHUNK_BYTES // row_bytes)
    if chunk_rows > batch_rows:
        chunk_rows -= chunk_rows % batch_rows
    return max(1, chunk_rows)


def _check(name: str, value: float, least: int) -> None:
    if not value >= least:
        raise UsageError(f"{name} is {value}: it must be at least {least}")
