"""A `datasets.Dataset` is read by slices, which it gives as tables of Arrow; its library is not imported."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from producer.rows.source import BatchSource, Source
from producer.sources.frames import ArrowFrame
from producer.sources.iterables import from_rows
from tasks.protocol.codec import Array


def is_hub_dataset(data: object) -> bool:
    """Whether this has the methods of a `datasets.Dataset`; one that is only iterated over has not."""
    kind = type(data)
    return all(hasattr(kind, name) for name in ("with_format", "select_columns", "column_names", "__len__"))


def from_hub_dataset(data: Any) -> Source | BatchSource:
    """Make a data set of a `datasets.Dataset`, whose rows stay where they are, in memory or in its files.

    Columns are as of `open_parquet`; of a picture or a sound they are fields, as `image.bytes`. The format of its
    values is left alone, but for a transform of the caller's own: rows that it makes are taken in order, one by one.

    Raises:
        InputError: as for `from_frame`.
        ConfigError: pyarrow is not installed.
    """
    if data.format["type"] == "custom":
        return from_rows(data, label=type(data).__name__)
    columns = None if data.format["output_all_columns"] else list(data.format["columns"])
    return _HubFrame(data.select_columns(columns) if columns else data).all()


class _HubFrame(ArrowFrame):
    def __init__(self, data: Any) -> None:
        self._data = data.with_format("arrow")
        super().__init__(data, list(data.column_names), self._data[0:0].schema)

    def tables(self, names: Sequence[str]) -> tuple[float, Callable[[slice | Array], Any]]:
        some = self._data.select_columns(list(names))
        first = some[0 : min(1, len(some))]
        return float(first.nbytes), lambda index: some[index if isinstance(index, slice) else index.tolist()]
