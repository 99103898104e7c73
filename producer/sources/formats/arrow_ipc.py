"""Arrow IPC files, which Feather files are too, --their schemas, and which rows a record batch has--> a data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from producer.rows.readers import BatchReader
from producer.rows.source import Table
from producer.sources.files import find_data, span_of
from producer.sources.formats.block_index import indexed, split_source
from producer.sources.formats.common_columns import common_columns
from tasks.datasets.columns import check_names
from tasks.datasets.formats.ipc import blocks_of, schema_of
from tasks.datasets.open_file import Opener
from tasks.datasets.read_errors import one_line_errors
from worker_config.columns import expanded
from worker_config.foreign_errors import import_optional


def open_arrow(path: str | Path, columns: Sequence[str] | None = None) -> BatchReader:
    """Open an Arrow IPC file (`.arrow`, `.feather`), those of a folder or of a pattern, in sorted order; also by URL.

    Columns are as of `open_parquet`.

    Raises:
        InputError: no such file or column, files that do not fit together, a type that no model takes.
        ConfigError: pyarrow is not installed.
    """
    import_optional("pyarrow.ipc", "parquet")
    suffix = Path(path).suffix if Path(path).suffix in (".arrow", ".feather") else ""
    files, schemas = [span_of(file) for file in find_data(path, suffix)], []
    for file in files:
        with one_line_errors(file.path), Opener().open(file) as opened:
            schemas.append((file.path, schema_of(opened)))
        check_names(schemas[-1][1].names, file.path)
    blocks = [indexed(file, "arrow", blocks_of) for file in files]
    label = Path(path).name

    def reader(named: Sequence[str] | None) -> BatchReader:
        names, others = common_columns(schemas, named)
        return split_source(label, blocks, names).in_order(Table(names, reader, others))

    named = [columns] if isinstance(columns, str) else columns
    return reader(expanded(named) if named else named)
