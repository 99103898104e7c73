"""Streams of Arrow --one record batch after the other, each some MiB at a time--> a BatchSource of their columns.

Readers of record batches, relations of DuckDB and whatever else exports `__arrow_c_stream__`: pyarrow reads them all.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import closing
from typing import Any

from producer.rows.readers import BatchReader
from producer.rows.source import BatchSource, Source, Table
from producer.sources.arrays import from_arrays
from producer.sources.formats.common_columns import common_columns
from producer.sources.frames import from_frame
from tasks.datasets.arrow import batches_of
from tasks.datasets.columns import check_names
from tasks.datasets.rows import Batches
from worker_config.errors import InputError
from worker_config.foreign_errors import import_optional, one_line

logger: logging.Logger = logging.getLogger(__name__)


def is_arrow(data: object) -> bool:
    """Whether this exports what it has, or will have, by the protocols of Arrow alone."""
    kind = type(data)
    exports = hasattr(kind, "__arrow_c_stream__") or hasattr(kind, "__arrow_c_array__")
    return exports and not hasattr(kind, "__array__")


def from_arrow(data: Any) -> Source | BatchSource:
    """Make a data set of what exports `__arrow_c_stream__` or `__arrow_c_array__`: columns with names, or one array.

    A stream is read once, in order, and never whole: one record batch is in memory besides what is in flight. Columns
    are as of `open_parquet`. What its giver raises midway ends the job after the rows before.

    Raises:
        InputError: it has no columns, names twice, or is no stream of record batches.
        ConfigError: pyarrow is not installed.
    """
    label = type(data).__name__
    arrow = import_optional("pyarrow", "parquet", f"the {label}")
    if not hasattr(type(data), "__arrow_c_stream__"):
        try:
            return from_frame(arrow.table(data))
        except (arrow.ArrowInvalid, arrow.ArrowTypeError):  # it has no columns by name
            return from_arrays(arrow.array(data))
    try:
        reader = arrow.RecordBatchReader.from_stream(data)
    except Exception as error:  # a query may fail in any way
        raise InputError(
            f"the {label}: gives no stream of record batches: {type(error).__name__}: {one_line(error)}; see the "
            "cause, or give a table"
        ) from error
    check_names(reader.schema.names, f"the {label}")
    return _reader(label, reader, None)


def _reader(label: str, reader: Any, named: Sequence[str] | None) -> BatchReader:
    names, others = common_columns([(f"the {label}", reader.schema)], named)
    table = Table(names, lambda chosen: _reader(label, reader, chosen), others)
    return BatchReader(label, None, lambda: _read(reader, names, f"the {label}"), once=True, table=table)


def _read(reader: Any, names: Sequence[str], where: str) -> Batches:
    row = number = 0
    with closing(reader):
        while True:
            try:
                batch = reader.read_next_batch()
            except StopIteration:
                if not row:
                    logger.warning("%s: had no rows; a reader that was read before has none again", where)
                return
            except Exception as error:
                why = one_line(error).partition(". Detail: Python exception")[0]  # a traceback
                raise InputError(
                    f"{where}: record batch {number}, from row {row} on, did not come: {type(error).__name__}: {why}; "
                    "see the cause, and give the rows again"
                ) from error
            yield from batches_of(batch, names, where, row)
            row, number = row + batch.num_rows, number + 1
