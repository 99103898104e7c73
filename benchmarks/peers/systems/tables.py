"""Rows and outputs as Arrow tables, for systems that read and write Parquet themselves; no value is copied.

`id`, `row` --`rows_of`--> an array, the model --> outputs --`outputs_of`--> `id`, `output`
"""

from __future__ import annotations

import pyarrow as pa
import work


def rows_of(table: pa.Table, order: work.Order) -> work.Rows:
    """The column `row` as an array of the shape that the model takes."""
    values = table["row"].combine_chunks().flatten().to_numpy()
    rows: work.Rows = values.reshape(-1, *order["row_shape"])
    return rows


def outputs_of(table: pa.Table, outputs: work.Rows) -> pa.Table:
    """The numbers of a table's rows, and their outputs, flat."""
    lists = pa.FixedSizeListArray.from_arrays(pa.array(outputs.reshape(-1)), outputs[0].size)
    return pa.table({"id": table["id"], "output": lists})
