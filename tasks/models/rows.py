"""This module runs a function that is a model on rows as they are, in batches as any other model.

rows --columns--> batches of as many rows --function--> an array, or a dict of arrays, one row for each
"""

from __future__ import annotations

from tasks.models.batches import run_batches
from tasks.models.user_functions import Step, finished
from tasks.protocol.records import ModelInfo
from tasks.protocol.signature import Arrays, Rows
from tasks.protocol.trees import columns_of, leaves_of, tree_like
from worker_config.errors import InputError, ModelError

# The name of an output that is no dict's.
ONLY = ""


def run_function(function: Step, rows: Rows, info: ModelInfo) -> Arrays:
    """The outputs for rows of even shape, of which there is at least one.

    Raises:
        InputError: the columns have different numbers of rows.
        ModelError: the function failed, or returned no arrays, or another number of rows.
    """
    columns = columns_of(rows)
    counts = sorted({len(column) for column in columns.values()})
    if len(counts) != 1:
        raise InputError(f"model {info.name}: the columns have {counts} rows; they must have equally many")
    what = f"model {info.name}: function {info.function}"

    def call(batch: Arrays) -> Arrays:
        outputs = finished(function, tree_like(rows, batch), info.batch_rows, what)
        if isinstance(outputs, tuple):
            raise ModelError(f"{what} returned a tuple; a model's outputs are one array, or a dict of arrays")
        if any(len(key) > 1 for key, _ in leaves_of(outputs)):
            raise ModelError(f"{what} returned a dict in a dict; a model's outputs are one array, or a dict of arrays")
        return outputs if isinstance(outputs, dict) else {ONLY: outputs}

    return run_batches(call, columns, info.batch_rows, info.name)
