"""The model's graph compiled by XLA for one batch, on the mapped weights.

Other numbers of rows, rare as they are, go the way of "graph": to compile for each of them could take minutes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tasks.executors import graph
from tasks.models.program import FlatCall, flat_call, list_call
from tasks.snapshots.record import Snapshot


def load(folder: Path, snapshot: Snapshot, batch_rows: int, threads: int) -> FlatCall:
    """The compiled graph; the first call with `batch_rows` rows compiles, which takes seconds."""
    compiled, keep = graph.listed(folder, snapshot, batch_rows, jit_compile=True)
    of_batch = list_call(compiled)
    of_any_rows = flat_call(keep[0].signatures["serving_default"], len(snapshot.outputs))

    def call(arrays: Sequence[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        is_batch = all(len(array) == batch_rows for array in arrays if array.ndim)
        return of_batch(arrays) if is_batch else of_any_rows(arrays)

    call.keep = keep  # type: ignore[attr-defined] # its variables live as long as it does
    return call
