"""Tables --> a Parquet file, or a Feather file (version 2: Arrow's own file format, packed with LZ4)."""

from __future__ import annotations

from typing import IO, Any

from tasks.outputs.arrow import ArrowWriter
from worker_config.foreign_errors import import_optional


class ParquetWriter(ArrowWriter):
    """Columns in a Parquet file."""

    format_name = "Parquet"

    def open_tables(self, stream: IO[bytes], schema: Any) -> Any:
        """The library's own writer."""
        return import_optional("pyarrow.parquet", "parquet", str(self.target.path)).ParquetWriter(stream, schema)


class FeatherWriter(ArrowWriter):
    """Columns in a Feather file."""

    format_name = "Feather"

    def open_tables(self, stream: IO[bytes], schema: Any) -> Any:
        """The library's own writer; packed as `pyarrow.feather` does."""
        ipc = import_optional("pyarrow.ipc", "parquet", str(self.target.path))
        return ipc.new_file(stream, schema, options=ipc.IpcWriteOptions(compression="lz4"))
