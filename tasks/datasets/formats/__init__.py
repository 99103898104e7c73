"""A reader for each format of files: a module each, imported when such a file is opened.

stream, columns --open_format--> reader: where reading for a row begins, batches from there
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any, BinaryIO

from tasks.datasets.open_file import Opener
from tasks.protocol.split_ref import READS_OBJECTS, FileSpan, FormatName, SplitRef

# The module with `open_rows`, and the library that it needs, if it needs one.
_FORMATS: dict[FormatName, tuple[str, str]] = {
    "parquet": ("parquet", "pyarrow"),
    "arrow": ("ipc", "pyarrow"),
    "csv": ("csv", "pyarrow"),
    "jsonl": ("jsonl", "pyarrow"),
    "npz": ("npz", ""),
    "bytes": ("contents", ""),
    "webdataset": ("webdataset", ""),
    "zarr": ("zarr", "zarr"),
    "hdf5": ("hdf5", "h5py"),
    "tfrecord": ("tfrecord", "google_crc32c"),
}

# Whose readers open files themselves.
_OF_MANY_FILES: tuple[FormatName, ...] = ("zarr",)


def open_format(file: BinaryIO, ref: SplitRef, span: FileSpan, opener: Opener, threads: bool) -> Any:
    """The reader of a file, as `tasks.datasets.split_reader.FormatReader` has it.

    Raises:
        ConfigError: the library for it is not installed.
        Exception: whatever a library raises of a damaged file.
    """
    module = import_module(f"{__name__}.{_FORMATS[ref.format][0]}")
    more = (opener,) if ref.format in _OF_MANY_FILES else ()
    return module.open_rows(file, ref, span, *more) if more else module.open_rows(file, ref, span.path, threads)


def readable() -> list[str]:
    """Those whose libraries are installed here; and that objects are, whatever they hold."""
    formats = [str(name) for name, (_, library) in _FORMATS.items() if not library or find_spec(library)]
    return [*formats, *([READS_OBJECTS] if find_spec("obstore") else [])]
