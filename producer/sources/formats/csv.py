"""CSV files --types of columns, by all rows--> columns by name, in blocks of some MiB.

They are read twice: a column has a type only where all its values are of it, in all files; what is neither numbers nor
truth values is text. A value that is missing is null.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from producer.rows.readers import BatchReader
from producer.rows.source import Table
from producer.sources.files import find_data, span_of
from producer.sources.formats.block_index import Block, FileBlocks, split_source
from tasks.datasets.columns import check_names, missing_column
from tasks.datasets.formats.csv import (
    TEXT,
    blocks_in,
    cast,
    header_of,
    made_of_digits,
    names_of,
    texts_in,
    without_nulls,
)
from tasks.datasets.open_file import Opener
from tasks.datasets.read_errors import one_line_errors
from tasks.protocol.split_ref import FileSpan
from worker_config.columns import expanded
from worker_config.foreign_errors import import_optional

# Names of Arrow's types, the likeliest first.
_TYPES = ("int64", "uint64", "float64", "bool")


def open_csv(path: str | Path, columns: Sequence[str] | None = None) -> BatchReader:
    """Open a CSV file, the `.csv` files of a folder or those of a pattern, in sorted order.

    The first line has the names of the columns; values are separated by commas, in UTF-8. Columns are integers, floats,
    truth values (`true`, `false`) or text, as dates are.

    Args:
        path: a file, a folder or a pattern; also by URL.
        columns: names of the columns to read, in this order; p0..p783 are p0, p1 and so on. All if left out.

    Raises:
        InputError: no such file or column, or files that do not fit together.
        ConfigError: pyarrow is not installed.
    """
    import_optional("pyarrow.csv", "parquet")
    files = [_CsvFile(span_of(file)) for file in find_data(path, ".csv")]
    kinds: dict[str, str] = {}
    for name in files[0].names:
        if missing := [file for file in files if name not in file.names]:
            raise missing_column(missing[0].file.path, name, missing[0].names)
        known = [file.kinds[name] for file in files if name in file.kinds]
        kinds[name] = next((kind for kind in _TYPES if known and all(kind in one for one in known)), TEXT)
    names = list(kinds) if columns is None else expanded([columns] if isinstance(columns, str) else columns)
    return _reader(Path(path).name, files, kinds, names)


def _reader(label: str, files: list[_CsvFile], kinds: dict[str, str], names: Sequence[str]) -> BatchReader:
    for name in names:
        if name not in kinds:
            raise missing_column(files[0].file.path, name, kinds)
    blocks = [FileBlocks(one.file, "csv", one.blocks) for one in files]
    splits = split_source(label, blocks, names, {name: kinds[name] for name in names})
    return splits.in_order(Table(names, lambda chosen: _reader(label, files, kinds, chosen)))


class _CsvFile:
    """One file, all of whose rows are looked at when it is opened.

    Attributes:
        file: as it was when it was opened.
        names: of its columns; one without a name is called by its place, as "column0".
        blocks: the first row of each block, and the bytes of it.
        kinds: of each column that has values the types that all of them are of.
    """

    def __init__(self, file: FileSpan) -> None:
        self.file = file
        self.blocks: list[Block] = []
        self.kinds: dict[str, list[str]] = {}
        with one_line_errors(file.path), Opener().open(file) as opened:
            given = header_of(opened, file.path)
            self.names = names_of(given)
            check_names(self.names, file.path)
            row = end = 0
            for begin, end in blocks_in(opened):
                self.blocks.append((row, begin, end))
                for batch in texts_in(opened, begin, end, given, given):
                    row += batch.num_rows
                    self._narrow(batch)
            self.blocks.append((row, end, end))

    def _narrow(self, batch: Any) -> None:
        """Strike out the types that the values of some rows are not of."""
        for place, name in enumerate(self.names):
            if left := self.kinds.get(name, list(_TYPES)):
                values = without_nulls(batch.column(place))
                if values.null_count < len(values):
                    names = made_of_digits(values)
                    self.kinds[name] = [kind for kind in left if kind not in names and cast(values, kind) is not None]
