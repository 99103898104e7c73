"""Parquet files --their footers alone--> a data set of their columns, which workers may read themselves."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import msgspec

from producer.rows.readers import BatchReader
from producer.rows.source import Table
from producer.sources.files import find_data, span_of
from producer.sources.formats.common_columns import common_columns
from producer.sources.formats.split_source import SplitSource
from producer.sources.partitions import find_partitioned, is_partitioned, partition_of, types_of
from tasks.datasets.columns import check_names
from tasks.datasets.formats.parquet import check_footer, group_starts, sizes_of
from tasks.datasets.input_limit import input_limit
from tasks.datasets.open_file import Opener
from tasks.datasets.read_errors import one_line_errors
from tasks.protocol.split_ref import FileSpan, SplitRef
from worker_config.columns import expanded
from worker_config.foreign_errors import import_optional


def open_parquet(path: str | Path, columns: Sequence[str] | None = None) -> BatchReader:
    """Open a Parquet file, the `.parquet` files of a folder or those of a pattern, in sorted order.

    Numbers, booleans, strings and binary are taken, and lists of these: of equal length as arrays with one more
    axis, of different lengths as a list of arrays. Folders named `key=value`, below the one that is given or the first
    that is a pattern, are columns too.

    Args:
        path: a file, a folder or a pattern; also by URL.
        columns: names of the columns to read; fields of structs are named with a dot, as `image.bytes`, and p0..p783
            are p0, p1 and so on. If left out, all of types that some model takes. Dates come as text, if named.

    Raises:
        InputError: no such file or column, files that do not fit together, a type that no model takes.
        ConfigError: pyarrow is not installed.
    """
    found = find_partitioned(path) if is_partitioned(path) else list(find_data(path, ".parquet"))
    alike, whole = _Alike(), _Alike()
    files = [_Footer(span_of(file), alike) for file in found]
    partitions = [partition_of(file, path) for file in found]
    types = types_of(partitions, [(one.file.path, one.schema) for one in files])
    for file, partition in zip(files, partitions, strict=True):
        file.stand_in(partition, types, whole)
    named = [columns] if isinstance(columns, str) else columns
    return _reader(Path(path).name, files, expanded(named) if named else named, types)


def _reader(label: str, files: Sequence[_Footer], named: Sequence[str] | None, types: Mapping[str, Any]) -> BatchReader:
    names, others = common_columns([(one.file.path, one.schema) for one in files], named)
    firsts = [0, *accumulate(file.starts[-1] for file in files)]
    spans = [file.span(first) for file, first in zip(files, firsts, strict=False)]
    borders = [first + start for file, first in zip(files, firsts, strict=False) for start in file.starts[:-1]]
    in_files = [name for name in names if name not in types]
    sizes = [size for file in files for size in file.sizes_of(in_files)]
    splits = SplitSource(
        label,
        sum(sizes) / max(1, firsts[-1]),
        SplitRef("parquet", spans, names, {name: str(kind) for name, kind in types.items()}),
        [*borders, firsts[-1]],
        max(sizes, default=0),
    )
    return splits.in_order(Table(names, lambda chosen: _reader(label, files, chosen, types), others))


class _Alike:
    """What many files have in common, of which each would have a copy: some KiB."""

    def __init__(self) -> None:
        self._schema: Any = None
        self._paths: tuple[str, ...] = ()

    def schema(self, one: Any) -> Any:
        """The same columns, those of the file before where they are its own."""
        if self._schema is None or not one.equals(self._schema):
            self._schema = one.remove_metadata()
        return self._schema

    def paths(self, one: tuple[str, ...]) -> tuple[str, ...]:
        """The same names of columns in a row group."""
        if one != self._paths:
            self._paths = one
        return self._paths


class _Footer:
    """What the producer knows of a file.

    Attributes:
        file: its name as it was given, and what it was when it was opened.
        schema: its columns, in Arrow's types.
        starts: the first row of each row group, and the number of rows at the end.
    """

    def __init__(self, file: FileSpan, alike: _Alike) -> None:
        parquet = import_optional("pyarrow.parquet", "parquet")
        self.file = file
        with one_line_errors(file.path), Opener().open(file) as raw, parquet.ParquetFile(raw) as opened:
            column_bytes = check_footer(opened.metadata, file.path, input_limit())
            self.starts = array("q", group_starts(opened.metadata))
            self.schema = alike.schema(opened.schema_arrow)
            self._paths = alike.paths(tuple(column_bytes[0]) if column_bytes else ())
            self._sizes = array("q", [group.get(path, 0) for group in column_bytes for path in self._paths])
        check_names(self.schema.names, file.path)

    def stand_in(self, partition: Mapping[str, str | None], types: Mapping[str, Any], alike: _Alike) -> None:
        """Take columns of these types from what its folders say, also where the file has them itself."""
        self.file = msgspec.structs.replace(self.file, partition=[partition.get(name) for name in types])
        for name, kind in types.items():
            field = import_optional("pyarrow", "parquet").field(name, kind)
            at = self.schema.get_field_index(name)
            self.schema = self.schema.append(field) if at < 0 else self.schema.set(at, field)
        self.schema = alike.schema(self.schema)

    def sizes_of(self, names: Sequence[str]) -> list[int]:
        """What these columns of each row group have in memory."""
        width = len(self._paths)
        groups = (self._sizes[at : at + width] for at in range(0, len(self._sizes), max(1, width)))
        return sizes_of([dict(zip(self._paths, group, strict=True)) for group in groups], names)

    def span(self, first: int) -> FileSpan:
        """All of its rows, which begin with this one of the data set."""
        return msgspec.structs.replace(self.file, first=first, stop=self.starts[-1])
