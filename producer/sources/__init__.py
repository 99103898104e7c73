"""Any data set --open_source--> Source or BatchSource: arrays, files, iterables; a module for each format.

What comes out is a `Source`, whose rows can be taken by slices, or a `BatchSource`, which is read in order.
A new format is a module with a function that gives either, and a line in `_FORMATS`.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from producer.rows.source import BatchSource, Source
from producer.sources.arrays import ArraySource, from_arrays
from producer.sources.arrow_streams import from_arrow, is_arrow
from producer.sources.choose import ColumnNames, choose, columns_of_inputs, inputs_of
from producer.sources.files import find_files, is_pattern
from producer.sources.fingerprint import fingerprint, fingerprint_of_rows
from producer.sources.formats.arrow_ipc import open_arrow
from producer.sources.formats.csv import open_csv
from producer.sources.formats.folders import open_files
from producer.sources.formats.hdf5 import open_hdf5
from producer.sources.formats.jsonl import open_jsonl
from producer.sources.formats.parquet import open_parquet
from producer.sources.formats.tfrecord import open_tfrecord
from producer.sources.formats.webdataset import open_webdataset
from producer.sources.formats.zarr import is_zarr, open_zarr
from producer.sources.frames import from_frame, is_frame
from producer.sources.hub_datasets import from_hub_dataset, is_hub_dataset
from producer.sources.iterables import from_batches, from_rows
from producer.sources.numpy_files import open_file
from producer.sources.numpy_objects import ObjectArray, open_object_array, open_object_npz
from producer.sources.partitions import is_partitioned
from producer.sources.records import from_records, is_records
from producer.sources.tf_dataset import from_tf_dataset, is_tf_dataset
from producer.sources.torch_loader import from_loader, is_loader
from tasks.datasets.rows import Arrays, Batches, Column, Rows
from tasks.storage.object_paths import find_objects, is_many
from worker_config.errors import InputError, UsageError
from worker_config.object_urls import is_url, redacted_url

__all__ = [
    "ArraySource",
    "Arrays",
    "BatchSource",
    "Batches",
    "Column",
    "ObjectArray",
    "Rows",
    "Source",
    "fingerprint",
    "fingerprint_of_rows",
    "from_arrays",
    "from_arrow",
    "from_batches",
    "from_frame",
    "from_hub_dataset",
    "from_loader",
    "from_records",
    "from_rows",
    "from_tf_dataset",
    "has_batches",
    "open_arrow",
    "open_csv",
    "open_file",
    "open_files",
    "open_hdf5",
    "open_jsonl",
    "open_parquet",
    "open_source",
    "open_tfrecord",
    "open_webdataset",
    "open_zarr",
]

_Opener = Callable[..., Source | BatchSource]

_FORMATS: dict[str, _Opener] = {
    ".npy": open_file,
    ".npz": open_file,
    ".parquet": open_parquet,
    ".csv": open_csv,
    ".tfrecord": open_tfrecord,
    ".zarr": open_zarr,
    ".arrow": open_arrow,
    ".feather": open_arrow,
    ".jsonl": open_jsonl,
    ".h5": open_hdf5,
    ".hdf5": open_hdf5,
    ".tar": open_webdataset,
}
# What has more to tell than arrays and iterables have, each known by its protocol or its methods.
_KINDS: tuple[tuple[Callable[[object], bool], _Opener], ...] = (
    (is_hub_dataset, from_hub_dataset),
    (is_frame, from_frame),
    (is_arrow, from_arrow),
    (is_records, from_records),
    (is_tf_dataset, from_tf_dataset),
    (is_loader, from_loader),
)
# The files of one data set, in these formats, may be many.
_IN_MANY_FILES = (".parquet", ".csv", ".tfrecord", ".arrow", ".feather", ".jsonl", ".tar")

# Of which one object is read where it stands, by functions of their own.
_ALONE_BEHIND_URLS: dict[str, _Opener] = {
    ".npy": open_object_array,
    ".npz": open_object_npz,
    ".h5": open_hdf5,
    ".hdf5": open_hdf5,
}

# What TensorFlow Datasets writes beside its files.
_ABOUT = ("dataset_info.json", "features.json")

# Also x.tfrecords, x.tfrecord.gz and x.tfrecord-00000-of-00010.
_SUFFIX = re.compile(
    r"(?<=.)(\.(?:npy|npz|parquet|csv|zarr|arrow|feather|jsonl|h5|hdf5|tar|tfrecord))"
    r"(?:(?<=record)s?(-\d+-of-\d+)?(\.gz)?)?$",
    re.I,
)


def open_source(data: object, *, columns: ColumnNames | None = None, **options: Any) -> Source | BatchSource:
    """Open any data set.

    Args:
        data: a path (.npy, .npz, .parquet, .csv, .tfrecord, .zarr, a folder, a pattern with `*`), a URL of these,
            arrays as for `from_arrays`, a DataFrame or a table of Arrow, a `tf.data.Dataset`, an iterator over rows or
            an iterable without length, or a source.
        columns: of a data set of columns by name those to take, as for `choose`.
        options: what the function for this kind of data set takes besides, for example `contents` for folders.

    Raises:
        InputError: the data set cannot be read.
        UsageError: an option that this kind of data set does not have.
        ConfigError: a library for this format is not installed.
    """
    opener = _path_opener(os.fspath(data)) if isinstance(data, str | Path) else _object_opener(data)
    if columns is not None:
        # Whoever reads a file by columns does not look at the others.
        by_column = "columns" in inspect.signature(opener).parameters
        more = {"columns": columns_of_inputs(inputs_of(columns))} if by_column else {}
        return choose(_opened(data, opener, {**options, **more}), columns)
    return _opened(data, opener, options)


def has_batches(data: object) -> bool:
    """Whether iterating over this gives no single rows, but columns, names or batches: a frame, a loader, a stream."""
    return not isinstance(data, np.ndarray | dict) and any(is_kind(data) for is_kind, _ in _KINDS)


def _opened(data: object, opener: _Opener, options: Mapping[str, Any]) -> Source | BatchSource:
    if options:
        try:
            inspect.signature(opener).bind(data, **options)
        except TypeError as error:
            what = data if isinstance(data, str | Path) else type(data).__name__
            raise UsageError(f"{what}: {error}; leave out options that {opener.__name__} does not take") from error
    return opener(data, **options)


def _object_opener(data: object) -> _Opener:
    if isinstance(data, np.ndarray | dict):  # at once: the questions below take longer than to predict a row
        return from_arrays
    if isinstance(data, Source | BatchSource):
        return lambda source: source
    if known := next((opener for is_kind, opener in _KINDS if is_kind(data)), None):
        return known
    # Whatever has a length is taken whole, as an array.
    whole = ("__len__", "__array__", "__dlpack__")
    if isinstance(data, Iterable) and not any(hasattr(data, name) for name in whole):
        return from_rows
    return from_arrays


def _url_opener(url: str) -> _Opener:
    kind = _format(url.rstrip("/"))
    if kind == ".zarr" and not is_pattern(url):
        return open_zarr
    if is_partitioned(url):
        return open_parquet
    if is_many(url):
        return _many_opener({_format(one.name) for one in find_objects(url) if _is_data(one.name)})
    if kind in _ALONE_BEHIND_URLS or kind in _IN_MANY_FILES:
        return _ALONE_BEHIND_URLS.get(kind, _FORMATS[kind])
    kind = PurePosixPath(url).suffix or "(none)"
    raise InputError(
        f"{redacted_url(url)}: objects of type {kind!r} cannot be read; save as {', '.join(_FORMATS)}, or "
        "name a folder, with a / at its end"
    )


def _many_opener(formats: Collection[str]) -> _Opener:
    return next((_FORMATS[name] for name in _IN_MANY_FILES if set(formats) == {name}), open_files)


def _is_data(name: str) -> bool:
    """Whether a file is of a data set; those with an underscore say something about the others, as _SUCCESS does."""
    return name[0] != "_" and name not in _ABOUT


def _path_opener(path: str) -> _Opener:
    if is_url(path):
        return _url_opener(path)
    if is_zarr(Path(path)) and not is_pattern(path):
        return open_zarr
    if is_partitioned(path):
        return open_parquet
    if is_pattern(path) or Path(path).is_dir():
        return _many_opener({_format(file.name) for file in find_files(path) if _is_data(file.name)})
    if known := _format(path):
        return _FORMATS[known]
    if not Path(path).exists():
        raise InputError(f"{path}: no such file; check the path")
    kind = Path(path).suffix or "(none)"
    raise InputError(f"{path}: files of type {kind!r} cannot be read; save as {', '.join(_FORMATS)}, or name a folder")


def _format(name: str) -> str:
    match = _SUFFIX.search(Path(name).name)
    return match[1].lower() if match else ""
