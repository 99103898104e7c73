"""Runs any number of rows through a call that takes `batch_rows` of them: slice, pad, call, trim, join."""

from __future__ import annotations

from typing import Any

import numpy as np

from tasks.models.batches import run_batches
from tasks.models.program import FlatCall

Arrays = list[np.ndarray[Any, Any]]


def in_batches(call: FlatCall, arrays: Arrays, batch_rows: int) -> Arrays:
    """The outputs for all rows, in the order of the call's.

    Raises:
        ModelError: the outputs are of another number of rows.
    """

    def named(batch: dict[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        return {str(number): output for number, output in enumerate(call(list(batch.values())))}

    inputs = {str(number): array for number, array in enumerate(arrays)}
    return list(run_batches(named, inputs, batch_rows, "of the executor").values())
