"""Tables --> row groups of a Parquet file."""

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
