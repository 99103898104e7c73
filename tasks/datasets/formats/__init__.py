"""A reader for each format of files: a module each, imported when such a file is opened.

stream, columns --open_format--> reader: where reading for a row begins, batches from there
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import BinaryIO

from tasks.datasets.formats.reader import FormatReader
from tasks.datasets.open_file import Opener
from tasks.protocol.split_ref import READS_OBJECTS, FileSpan, FormatName, SplitRef

# The module and its class of a reader, and the library that it needs, if it needs one.
_FORMATS: dict[FormatName, tuple[str, str, str]] = {
    "parquet": ("parquet", "ParquetRows", "pyarrow"),
    "arrow": ("ipc", "IpcRows", "pyarrow"),
    "csv": ("csv", "CsvRows", "pyarrow"),
    "jsonl": ("jsonl", "JsonRows", "pyarrow"),
    "npz": ("npz", "NpzRows", ""),
    "bytes": ("contents", "", ""),  # of which all files are read together
    "webdataset": ("webdataset", "TarRows", ""),
    "zarr": ("zarr", "ZarrRows", "zarr"),
    "hdf5": ("hdf5", "Hdf5Rows", "h5py"),
    "tfrecord": ("tfrecord", "TFRecordRows", "google_crc32c"),
}

# Whose readers open files themselves.
_OF_MANY_FILES: tuple[FormatName, ...] = ("zarr",)


def open_format(file: BinaryIO, ref: SplitRef, span: FileSpan, opener: Opener, threads: bool) -> FormatReader:
    """The reader of a file.

    Raises:
        ConfigError: the library for it is not installed.
        Exception: whatever a library raises of a damaged file.
    """
    module, kind, _ = _FORMATS[ref.format]
    reader = getattr(import_module(f"{__name__}.{module}"), kind)
    more = (span, opener) if ref.format in _OF_MANY_FILES else (span.path, threads)
    opened: FormatReader = reader(file, ref, *more)
    return opened


def readable() -> list[str]:
    """Those whose libraries are installed here; and that objects are, whatever they hold."""
    formats = [str(name) for name, (_, _, library) in _FORMATS.items() if not library or find_spec(library)]
    return [*formats, *([READS_OBJECTS] if find_spec("obstore") else [])]
