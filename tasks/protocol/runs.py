"""Rows as runs `[start, stop)` of those that follow each other, in which a part of an output tells them.

mask --runs_where--> array of runs, each two numbers --rows_of_runs, mask_of_runs--> numbers, or mask, of bounded size
"""

from __future__ import annotations

import numpy as np

from tasks.protocol.codec import Array


def runs_where(mask: Array, first: int = 0) -> Array:
    """The places where a mask is true, counted from `first`, as runs `[start, stop)`."""
    if mask.all():
        return np.array([[first, first + len(mask)]][: len(mask)], np.int64).reshape(-1, 2)
    bounds: Array = np.flatnonzero(np.diff(mask, prepend=False, append=False)) + first
    return bounds.reshape(-1, 2)


def rows_of_runs(runs: Array, rows: int) -> Array:
    """The rows of runs, which are so many; raises ValueError where these are none."""
    starts, lengths = _bounds(runs)
    if sum(lengths.tolist()) != rows:  # which cannot overflow
        raise ValueError(rows)
    if len(starts) == 1:
        return np.arange(int(starts[0]), int(starts[0]) + rows)
    numbers: Array = np.arange(rows) + np.repeat(starts - np.cumsum(lengths) + lengths, lengths)
    return numbers


def mask_of_runs(runs: Array, rows: int) -> Array:
    """Which of so many places are in runs; raises ValueError where these have others."""
    starts, lengths = _bounds(runs)
    if len(starts) and starts[-1] + lengths[-1] > rows:
        raise ValueError(rows)
    edges = np.zeros(rows + 1, np.int8)
    edges[starts] += 1
    edges[starts + lengths] -= 1
    return np.cumsum(edges[:-1], dtype=np.int8).astype(np.bool_)


def _bounds(runs: Array) -> tuple[Array, Array]:
    """The starts and lengths of runs, which must be in order."""
    if runs.dtype != np.int64 or runs.ndim != 2 or runs.shape[1] != 2:
        raise ValueError(runs)
    bounds = runs.reshape(-1)
    if (bounds[:1] < 0).any() or (bounds[1:] <= bounds[:-1]).any():
        raise ValueError(runs)
    return runs[:, 0], runs[:, 1] - runs[:, 0]
