"""The rows of a chunk, as its models and its failure records take them.

payload --fed_rows--> rows, records of those that cannot be fed
rows --check_rows--> as many in each column --rows_between--> those of a step --> models
records of rows --with_values, with_places--> records that say what the row is, or where it stands
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
import numpy as np

from tasks.datasets.rebatcher import values_at
from tasks.protocol.codec import columns_of, tree_like
from tasks.protocol.messages import ChunkMessage, FailureRecord, RowsRef
from tasks.protocol.split_ref import SplitRef, place_of
from tasks.protocol.unfed_rows import without_unfed
from worker_config.errors import InputError, PayloadError
from worker_config.files import path_text

# Of a row that is told in a failure record; the longest path that Linux knows has as many bytes.
MOST_VALUE_CHARACTERS = 4_096


def check_rows(rows: Any, count: int) -> None:
    """Make sure that every column has `count` rows, so that pieces of it are rows.

    Raises:
        InputError: one has not.
    """
    counts = sorted(
        {len(column) if isinstance(column, list) else column.shape[:1] for column in _listed(rows)}, key=str
    )
    if counts not in ([count], [(count,)], sorted([count, (count,)], key=str)):
        raise InputError(f"the columns of {count} rows have {', '.join(map(str, counts))}")


def fed_rows(message: ChunkMessage, payload: Any) -> tuple[Any, list[FailureRecord]]:
    """The rows of a chunk's payload, and a record of each that cannot be fed: the one before it stands in its place.

    Raises:
        PayloadError: the payload does not tell them in our form.
    """
    rows, unfed = without_unfed(payload)
    if not unfed:
        return rows, []
    first = message.start
    if not (min(unfed) >= 0 and max(unfed) < message.stop - first):
        raise PayloadError("the payload tells of rows that cannot be fed, and that the chunk has not")
    records = [FailureRecord(first + at, first + at + 1, "read", "InputError", why[:500]) for at, why in unfed.items()]
    fed = np.array([at for at in range(message.stop - first) if at not in unfed], np.int64)
    if len(fed):
        nearest = fed[np.maximum(np.searchsorted(fed, np.arange(message.stop - first), "right") - 1, 0)]
        columns = {name: values_at(column, nearest) for name, column in columns_of(rows).items()}
        rows = tree_like(rows, columns)
    return rows, records


def rows_between(rows: Any, start: int, stop: int) -> Any:
    """Rows `[start, stop)` of an array, a list of rows of uneven shape, or a dict or tuple of these."""
    return tree_like(rows, {name: column[start:stop] for name, column in columns_of(rows).items()})


def with_values(records: Iterable[FailureRecord], rows: Any, first: int) -> list[FailureRecord]:
    """The records, those of single rows with the text that the row is, if it is one; `rows` begin at row `first`."""
    return [
        msgspec.structs.replace(record, value=_text(rows, record.start - first))
        if record.stop - record.start == 1 and not record.value and record.stage != "read"
        else record
        for record in records
    ]


def with_places(records: Iterable[FailureRecord], ref: RowsRef) -> list[FailureRecord]:
    """The records, those of single rows that say nothing else with file and row in it, where these are known."""
    return [
        msgspec.structs.replace(record, value=place_of(ref, record.start)[:MOST_VALUE_CHARACTERS])
        if isinstance(ref, SplitRef) and record.stop - record.start == 1 and not record.value
        else record
        for record in records
    ]


def _text(rows: Any, position: int) -> str:
    values = [column[position] for column in _listed(rows) if position < len(column)]
    texts = (_path(value) if isinstance(value, bytes) else value for value in values)
    return next((str(text)[:MOST_VALUE_CHARACTERS] for text in texts if isinstance(text, str)), "")


def _path(value: bytes) -> str | None:
    """What may be a path that is no UTF-8, escaped; other bytes tell people nothing."""
    is_path = value.startswith(b"/") and len(value) <= MOST_VALUE_CHARACTERS and b"\0" not in value
    return path_text(value) if is_path else None


def _listed(rows: Any) -> list[Any]:
    return list(columns_of(rows).values())
