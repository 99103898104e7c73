"""Rows --> a column `row` and one column per output, as tables of about 16 MiB --> a Parquet or a Feather file.

`row` is the row of the data set. Feather is version 2: Arrow's own file format, packed with LZ4.

A scalar is a primitive column, a vector a list of fixed size, a higher rank a flattened one with its shape in the
field's metadata, as JSON: {"shape": "[2, 3]"}. An output without a name is "output".

Such a file cannot be continued: its end says where everything is. With a journal the rows therefore go into an Arrow
stream first, which can be, and become the file at the end; the disk holds both for a while. So they do where the first
rows have no text in a column of texts, which may be strings or bytes: in a stream both are alike but for its head.
"""

from __future__ import annotations

import json
import math
from abc import abstractmethod
from contextlib import suppress
from typing import IO, Any, ClassVar

import numpy as np

from tasks.outputs.row_spec import RowSpec, output_name
from tasks.outputs.temp_paths import OutputTarget
from tasks.outputs.writer import ROW, Arrays, FileWriter, Specs, title
from tasks.protocol.codec import Array
from worker_config.errors import OutputError
from worker_config.foreign_errors import import_optional

ROW_GROUP_BYTES = 16 * 2**20


class ArrowWriter(FileWriter):
    """Columns of Arrow in a file; by way of an Arrow stream where there is a journal.

    Attributes:
        format_name: for people.
    """

    format_name: ClassVar[str]

    def __init__(self, target: OutputTarget) -> None:
        super().__init__(target)
        self._arrow = import_optional("pyarrow", "parquet", str(target.path))
        if target.journalled:
            self.rows_path = target.temporary(f"{self.label}-0")
        self._schema: Any = None
        self._groups: _RowGroups | None = None
        self._undecided = set[int]()  # columns of strings, of which bytes may still come

    @abstractmethod
    def open_tables(self, stream: IO[bytes], schema: Any) -> Any:
        """What writes tables to the file: `write_table(table, rows)`, in groups of so many rows, and `close()`."""

    def begin(self, specs: Specs, first: Arrays) -> None:
        """Fix the columns."""
        self.check_no_row_column(specs)
        fields = [self._arrow.field(ROW, self._arrow.int64())]
        for key, spec in specs.items():
            value = value_type(self._arrow, spec, first[key])
            if value is None or 0 in spec.shape:
                rows = f"rows of {spec}" if value else str(spec.dtype)
                raise OutputError(
                    f"{self.target.path}: {output_name(key)} is {rows}, which {self.format_name} cannot hold; "
                    "use .npy or .npz"
                )
            column = self._arrow.list_(value, math.prod(spec.shape)) if spec.shape else value
            shape = {"shape": json.dumps(spec.shape)} if len(spec.shape) > 1 else None
            if spec.dtype.hasobject and _some_text(first[key]) is None:
                self._undecided.add(len(fields))
            fields.append(self._arrow.field(self.name(key), column, metadata=shape))
        self._schema = self._arrow.schema(fields)
        if self._undecided and not self.target.journalled:
            self.rows_path = self.target.temporary(f"{self.label}-0")
            self.stream = self.open(self.rows_path, "x")
        if self.rows_path != self.temporary:
            self.append(self._schema.serialize())
        else:
            self._groups = _RowGroups(self._arrow, self.open_tables(self.stream, self._schema))

    def reopen(self, specs: Specs, rows: int, mark: int) -> None:
        """Continue the Arrow stream."""
        super().reopen(specs, rows, mark)
        self.stream.seek(0)
        try:
            batches = self._arrow.ipc.open_stream(self.stream)
            self._schema = batches.schema
            string = self._arrow.string()
            self._undecided = {at for at, field in enumerate(self._schema) if _value_of(field.type) == string}
            while self._undecided and (batch := next(batches, None)) is not None:
                self._undecided -= {at for at in self._undecided if _has_values(batch.column(at))}
        except self._arrow.ArrowInvalid as error:
            raise self._damaged() from error

    def write(self, start: int, arrays: Arrays, numbers: Array) -> None:
        """Write rows, or keep them until there is a row group of them."""
        if self._undecided:
            self._decide(list(arrays.values()))
        batch = self._batch(arrays, numbers)
        if self._groups is None:
            self.append(batch.serialize())
        else:
            self._groups.add(batch)

    def finish(self, rows: int) -> None:
        """Write what is left, and the end of the file."""
        file = self.stream
        if self._groups is None:
            file = self.open(self.temporary, "w")
            self._groups = _RowGroups(self._arrow, self.open_tables(file, self._schema))
            self.stream.truncate(self.end)
            self.stream.seek(0)
            try:
                for batch in self._arrow.ipc.open_stream(self.stream):
                    self._groups.add(batch)
            except self._arrow.ArrowInvalid as error:
                raise self._damaged() from error
        self._groups.finish()
        file.flush()
        file.sync()
        self.close()

    def close(self) -> None:
        """Close every file."""
        if self._groups is not None:
            self._groups.abandon()
        super().close()

    def _decide(self, arrays: list[Array]) -> None:
        """Make those columns of strings bytes of which the first text that comes is one; rows so far have none."""
        before = self._schema
        for at in sorted(self._undecided):
            if (text := _some_text(arrays[at - 1])) is None:
                continue
            self._undecided.remove(at)
            if isinstance(text, bytes):
                field, binary = self._schema.field(at), self._arrow.binary()
                is_list = arrays[at - 1].ndim > 1
                column = self._arrow.list_(binary, field.type.list_size) if is_list else binary
                self._schema = self._schema.set(at, field.with_type(column))
        if self._schema is not before:
            self.stream.seek(0)
            self.stream.write(self._schema.serialize())  # as long as the one before
            self.stream.flush()

    def _damaged(self) -> OutputError:
        return OutputError(
            f"{self.target.path}: cannot be completed: {self.rows_path} is damaged; "
            "start over with --force instead of --resume"
        )

    def _batch(self, arrays: Arrays, numbers: Array) -> Any:
        columns = [self._arrow.array(numbers.astype(np.int64, copy=False))]
        for (key, array), field in zip(arrays.items(), list(self._schema)[1:], strict=True):
            try:
                columns.append(_column(self._arrow, array, field.type))
            except (self._arrow.ArrowInvalid, self._arrow.ArrowTypeError, UnicodeEncodeError) as error:
                raise OutputError(
                    f"{self.target.path}: {output_name(key)} of {title(numbers)} is not {field.type}: "
                    f"{str(error).splitlines()[0]}; change it with a postprocess function"
                ) from error
        return self._arrow.RecordBatch.from_arrays(columns, schema=self._schema)


class ParquetWriter(ArrowWriter):
    """Columns in a Parquet file, with a dictionary where values may be few; by default all columns would have one."""

    format_name = "Parquet"

    def open_tables(self, stream: IO[bytes], schema: Any) -> Any:
        """The library's own writer; rows' numbers, which mostly differ by one, are written as differences."""
        parquet = import_optional("pyarrow.parquet", "parquet", str(self.target.path))
        return parquet.ParquetWriter(
            stream, schema, use_dictionary=_repeating(schema), column_encoding={ROW: "DELTA_BINARY_PACKED"}
        )


class FeatherWriter(ArrowWriter):
    """Columns in a Feather file."""

    format_name = "Feather"

    def open_tables(self, stream: IO[bytes], schema: Any) -> Any:
        """The library's own writer; packed as `pyarrow.feather` does."""
        ipc = import_optional("pyarrow.ipc", "parquet", str(self.target.path))
        return ipc.new_file(stream, schema, options=ipc.IpcWriteOptions(compression="lz4"))


class _RowGroups:
    """Batches become row groups of about the same size, whatever the size of the batches."""

    def __init__(self, arrow: Any, file: Any) -> None:
        self._arrow = arrow
        self._file = file
        self._held: list[Any] = []
        self._held_bytes = 0

    def add(self, batch: Any) -> None:
        if batch.num_rows:
            self._held.append(batch)
            self._held_bytes += batch.nbytes
        if self._held_bytes >= ROW_GROUP_BYTES:
            self._write()

    def finish(self) -> None:
        if self._held:
            self._write()
        self._file.close()

    def abandon(self) -> None:
        """Write the end of a file that nobody wants, so that the library does not try it later."""
        with suppress(Exception):
            self._file.close()

    def _write(self) -> None:
        table = self._arrow.Table.from_batches(self._held)
        groups = max(1, round(self._held_bytes / ROW_GROUP_BYTES))
        self._file.write_table(table, math.ceil(table.num_rows / groups))
        self._held, self._held_bytes = [], 0


def row_shapes(schema: Any) -> dict[str, tuple[int, ...]]:
    """The shapes of one row of those columns of a file that are flattened."""
    return {
        field.name: tuple(json.loads(field.metadata[b"shape"]))
        for field in schema
        if field.metadata and b"shape" in field.metadata
    }


def bytes_columns(arrow: Any, schema: Any) -> set[str]:
    """The names of those columns of a file that hold bytes, not strings."""
    return {field.name for field in schema if _value_of(field.type) == arrow.binary()}


def value_type(arrow: Any, spec: RowSpec, first: Array) -> Any:
    """Give the type of one value in Arrow's form; None where there is none."""
    if spec.dtype.kind in "OUS":
        is_binary = spec.dtype.kind == "S" or (spec.dtype.hasobject and any(isinstance(v, bytes) for v in first.flat))
        return arrow.binary() if is_binary else arrow.string()
    if spec.dtype.kind in "biuf" and spec.dtype.itemsize <= 8:
        return arrow.from_numpy_dtype(spec.dtype.newbyteorder("="))
    return None


def _some_text(array: Array) -> str | bytes | None:
    """One of the texts of a column; those that are null are none."""
    return next((value for value in array.flat if isinstance(value, str | bytes)), None)


def _value_of(column_type: Any) -> Any:
    return getattr(column_type, "value_type", column_type)


def _has_values(column: Any) -> bool:
    values = column.flatten() if hasattr(column.type, "list_size") else column
    return bool(values.null_count < len(values))


def _column(arrow: Any, array: Array, column_type: Any) -> Any:
    flat = array.reshape(-1)
    if array.dtype.kind in "OUS":
        value_type = column_type.value_type if array.ndim > 1 else column_type
        values = arrow.array(flat.tolist(), value_type)
    else:
        flat = flat.astype(flat.dtype.newbyteorder("="), order="C", copy=False)
        if isinstance(flat, np.ma.MaskedArray):  # below a null stands whatever was read beside it
            flat = np.ma.array(flat.filled(0), mask=flat.mask)
        values = arrow.array(flat)
    return arrow.FixedSizeListArray.from_arrays(values, type=column_type) if array.ndim > 1 else values


def _repeating(schema: Any) -> list[str]:
    """The paths of columns whose values may be few: texts, bytes and integers, but not floats and the rows' numbers."""
    types = import_optional("pyarrow.types", "parquet")
    paths = []
    for field in schema:
        value = getattr(field.type, "value_type", field.type)
        if field.name != ROW and not types.is_floating(value):
            paths.append(field.name if value is field.type else f"{field.name}.list.element")
    return paths
