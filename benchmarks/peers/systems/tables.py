"""Rows and outputs as Arrow tables, for systems that read and write Parquet themselves; no value is copied.

`id`, `row` --`rows_of`--> an array, the model --> outputs --`outputs_of`--> `id`, `output`

Both are columns of bytes, a row's each: lists of numbers take four times as long to read and to write.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa


def rows_of(table: pa.Table, order: Mapping[str, Any]) -> np.ndarray[Any, Any]:
    """The column `row` as an array of the shape that the model takes."""
    return values_of(table["row"], order["dtype"]).reshape(-1, *order["row_shape"])


def outputs_of(table: pa.Table, outputs: np.ndarray[Any, Any]) -> pa.Table:
    """The numbers of a table's rows, and their outputs."""
    return pa.table({"id": table["id"], "output": as_bytes(outputs)})


def as_bytes(rows: np.ndarray[Any, Any]) -> pa.FixedSizeBinaryArray:
    """A column of the bytes of each row."""
    rows = np.ascontiguousarray(rows)
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(rows[0].nbytes), len(rows), [None, pa.py_buffer(rows)])


def values_of(column: pa.ChunkedArray, dtype: Any) -> np.ndarray[Any, Any]:
    """The values of such a column, a row each, flat."""
    bytes_ = column.combine_chunks()
    size = bytes_.type.byte_width
    values = np.frombuffer(bytes_.buffers()[1], np.uint8, len(bytes_) * size, bytes_.offset * size)
    return values.view(dtype).reshape(len(bytes_), -1)
