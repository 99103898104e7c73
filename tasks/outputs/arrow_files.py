"""Tables --> a Parquet file, or a Feather file (version 2: Arrow's own file format, packed with LZ4)."""

from __future__ import annotations

from typing import IO, Any

from tasks.outputs.arrow import ArrowWriter
from tasks.outputs.writer import ROW
from worker_config.foreign_errors import import_optional


class ParquetWriter(ArrowWriter):
    """Columns in a Parquet file, with a dictionary where values may be few; by default all columns would have one."""

    format_name = "Parquet"

    def open_tables(self, stream: IO[bytes], schema: Any) -> Any:
        """The library's own writer; rows' numbers, which mostly differ by one, are written as differences."""
        parquet = import_optional("pyarrow.parquet", "parquet", str(self.target.path))
        return parquet.ParquetWriter(
            stream, schema, use_dictionary=_repeating(schema), column_encoding={ROW: "DELTA_BINARY_PACKED"}
        )


def _repeating(schema: Any) -> list[str]:
    """The paths of columns whose values may be few: texts, bytes and integers, but not floats and the rows' numbers."""
    types = import_optional("pyarrow.types", "parquet")
    paths = []
    for field in schema:
        value = getattr(field.type, "value_type", field.type)
        if field.name != ROW and not types.is_floating(value):
            paths.append(field.name if value is field.type else f"{field.name}.list.element")
    return paths


class FeatherWriter(ArrowWriter):
    """Columns in a Feather file."""

    format_name = "Feather"

    def open_tables(self, stream: IO[bytes], schema: Any) -> Any:
        """The library's own writer; packed as `pyarrow.feather` does."""
        ipc = import_optional("pyarrow.ipc", "parquet", str(self.target.path))
        return ipc.new_file(stream, schema, options=ipc.IpcWriteOptions(compression="lz4"))
