"""Rows, or ready batches, of any Python iterable --> a BatchSource, whose end nobody need know."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from typing import Any

from producer.rows.readers import BatchReader
from producer.sources.frames import from_frame, is_frame
from tasks.datasets.columns import check_lengths, check_rows, place, to_array
from tasks.datasets.gather import RowSchema, gather, stack
from tasks.datasets.marked import marked, nulls_of, plain, unfed_of
from tasks.datasets.rows import Batches, Column
from tasks.protocol.codec import Array
from worker_config.errors import CeleriacError, InputError, UsageError
from worker_config.foreign_errors import one_line


class Again(Iterable[Any]):
    """What `begin` gives, from the first one on each time."""

    def __init__(self, begin: Callable[[], Iterator[Any]]) -> None:
        self._begin = begin

    def __iter__(self) -> Iterator[Any]:
        return self._begin()


def from_rows(rows: Iterable[Any], batch_rows: int = 1024, label: str = "") -> BatchReader:
    """Make a data set of single rows: arrays, numbers, str or bytes, or dicts or tuples of these.

    Rows are copied as they come. Where rows of one batch differ in shape, the batch has a list of arrays.

    Args:
        rows: any iterable; a generator is closed at the end.
        batch_rows: rows that are read ahead at most; fewer where they have 16 MiB.
        label: the data set, for people.

    Raises:
        InputError: this is no iterable; from the iterator, it raised, or a row has another form or dtype than those
            before it. The text names the row, counted from 0.
    """
    if batch_rows < 1:
        raise UsageError(f"batch_rows is {batch_rows}: it must be at least 1")
    label = label or _label(rows)
    once = isinstance(rows, Iterator)

    def read() -> Batches:
        return gather(_items(rows, label, "row"), label, batch_rows)

    return BatchReader(label, None, read, once)


def from_batches(batches: Iterable[Any], label: str = "") -> BatchReader:
    """Make a data set of ready batches, of any number of rows each: arrays, dicts or tuples of arrays, or DataFrames.

    Batches are copied as they come. A list of arrays, or of lists, may hold rows of different shapes.

    Raises:
        InputError: as for `from_rows`, with the number of the batch; its inputs have different numbers of rows.
    """
    label = label or _label(batches)
    return BatchReader(
        label, None, lambda: _checked(_items(batches, label, "batch"), label), once=isinstance(batches, Iterator)
    )


def _checked(batches: Generator[Any, None, None], label: str) -> Batches:
    schema = RowSchema()
    with closing(batches):
        for number, batch in enumerate(batches):
            where = f"{label}: batch {number}"
            unfed: dict[int, str] = {}
            nulls: Mapping[str, Array] = {}
            if is_frame(batch):
                rows = from_frame(batch).take_marked(0, len(batch))
                unfed, nulls = {row: f"{where}: {why}" for row, why in unfed_of(rows).items()}, nulls_of(rows)
                batch = plain(rows)
            columns = schema.columns(batch, where)
            checked = {name: _column(schema, name, value, place(where, name)) for name, value in columns.items()}
            check_lengths({name: len(column) for name, column in checked.items()}, where)
            yield marked(schema.batch(checked), unfed, nulls)


def _column(schema: RowSchema, name: str, value: object, where: str) -> Column:
    try:
        array = to_array(value, where)
    except InputError:
        if not isinstance(value, list):
            raise
        return stack([schema.value(name, row, where) for row in value])
    array = schema.value(name, value if isinstance(value, list) else array, where)
    check_rows(array.dtype, array.ndim, where)
    return array


def _items(items: Iterable[Any], label: str, what: str) -> Generator[Any, None, None]:
    """The items; what the iterable raises names the item that did not come."""
    number = 0
    iterator: Iterator[Any] | None = None
    try:
        while True:
            try:
                iterator = iterator or iter(items)
                item = next(iterator)
            except StopIteration:
                return
            except CeleriacError:
                raise
            except Exception as error:
                raise InputError(
                    f"{label}: {what} {number} did not come: {type(error).__name__}: {one_line(error)}; "
                    "see the cause, and give the rows again"
                ) from error
            if what == "row" and is_frame(item):
                raise InputError(
                    f"{label}: row {number} is a {type(item).__name__}, which has rows of its own; give "
                    "producer.sources.from_batches(...) of it"
                )
            yield item
            number += 1
    finally:
        if isinstance(iterator, Generator):
            iterator.close()


def _label(items: object) -> str:
    if not isinstance(items, Iterable):
        raise InputError(f"the data set: a {type(items).__name__} cannot be iterated over; give rows one after another")
    return f"rows of {getattr(items, '__name__', type(items).__name__)}"
