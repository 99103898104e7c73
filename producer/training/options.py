"""This module is what a loader was asked for, and refuses what cannot be."""

from __future__ import annotations

from dataclasses import dataclass

from tasks.protocol.messages import OnError
from worker_config.errors import UsageError


@dataclass(frozen=True)
class Wanted:
    """What a loader was asked for; as in `Loader`."""

    step: str
    batch_rows: int
    ordered: bool = True
    on_error: OnError = "skip"
    max_failed: int | str | None = None
    chunk_rows: int | None = None


def check_wanted(batch_rows: int, shuffle: bool | int, seed: int, epochs: int | None, shard: tuple[int, int]) -> None:
    """Refuse numbers that are too small.

    Raises:
        UsageError: one is; the text says which.
    """
    if batch_rows < 1:
        raise UsageError(f"batch_rows is {batch_rows}; it must be at least 1")
    if shuffle < 0:
        raise UsageError(f"shuffle is {shuffle}; give True, False, or the rows of a shuffle buffer")
    if seed < 0:
        raise UsageError(f"seed is {seed}; it must be at least 0")
    if epochs is not None and epochs < 1:
        raise UsageError(f"epochs is {epochs}; it must be at least 1, or None for passes without end")
    if len(shard) != 2 or not 0 <= shard[0] < shard[1]:
        raise UsageError(f"shard is {shard}; it is (index, count), with index from 0 up to count - 1")
