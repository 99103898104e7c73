"""Zarr arrays, alone or in a group, --their metadata alone--> a data set, which workers may read themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec
import numpy as np

from producer.rows.source import Table
from producer.sources.files import span_of
from producer.sources.formats.split_source import SplitSource
from tasks.datasets.columns import check_lengths, check_rows, is_taken, missing_column, no_array, place
from tasks.datasets.formats.zarr import ArrayBlocks, format_of, store_beside
from tasks.datasets.open_file import Opener
from tasks.datasets.read_errors import one_line_errors
from tasks.outputs.zarr import METADATA, has_metadata
from tasks.protocol.split_ref import FileSpan, SplitRef
from tasks.storage.object_list import ObjectPath
from tasks.storage.object_paths import find_objects
from worker_config.errors import InputError, ObjectMissingError, UsageError
from worker_config.foreign_errors import import_optional
from worker_config.object_urls import is_url

# Where chunks may end, of very many.
_MOST_BORDERS = 100_000


def is_zarr(folder: Path) -> bool:
    """Whether a folder is one Zarr store, rather than a folder of files."""
    return folder.suffix.lower() == ".zarr" or has_metadata(folder)


def open_zarr(path: str | Path, nested: bool = False, array: str | None = None) -> SplitSource:
    """Open a folder that holds a Zarr array, or a group, whose arrays are then taken by name, or one `array` of it.

    With `nested`, those of groups in the group are taken too, by names such as "group/array".

    Raises:
        InputError: no such folder, no arrays in it, or arrays that are no rows of one data set.
        ConfigError: zarr is not installed.
    """
    zarr = import_optional("zarr", "zarr")
    where = str(path).rstrip("/")
    if not is_url(where) and not Path(path).is_dir():
        raise InputError(f"{where}: no such folder; check the path")
    metadata = metadata_of(where)
    with one_line_errors(where):
        store = store_beside(Opener(), metadata) if is_url(where) else Path(path)
        opened = zarr.open(store, mode="r", zarr_format=format_of(metadata))
        is_one = isinstance(opened, zarr.Array)
        arrays = {"": opened} if is_one else dict(sorted(_arrays(opened, nested or array is not None)))
    if array is not None:
        if is_one:
            raise UsageError(f"{where}: is one array; leave out the name {array!r}")
        if array not in arrays:
            raise no_array(where, array, arrays)
        arrays = {"": arrays[array]}
    if not arrays:
        raise InputError(f"{where}: holds no arrays; give at least one")
    others = {name: str(one.dtype) for name, one in arrays.items() if name and not is_taken(np.dtype(one.dtype))}
    taken = {name: one for name, one in arrays.items() if name not in others} or arrays
    for name, one in taken.items():
        check_rows(np.dtype(one.dtype), one.ndim, place(where, name))
    check_lengths({name: one.shape[0] for name, one in arrays.items() if one.ndim}, where)
    return _reader(where, metadata, arrays, list(taken), others)


def metadata_of(where: str) -> FileSpan:
    """The file or object that says what a store is; raises InputError where there is none."""
    for name in METADATA:
        with suppress(ObjectMissingError):
            [found] = find_objects(f"{where}/{name}") if is_url(where) else [Path(where, name)]
            if isinstance(found, ObjectPath) or found.exists():
                return span_of(found)
    raise InputError(f"{where}: is no Zarr array or group; name the folder that zarr.save wrote")


def _reader(
    where: str, metadata: FileSpan, arrays: Mapping[str, Any], names: Sequence[str], others: Mapping[str, str]
) -> SplitSource:
    """Those of the arrays that have these names; "" is one array alone, whatever its name in the store."""
    for name in names:
        if name not in arrays:
            raise missing_column(where, name, arrays)
        check_rows(np.dtype(arrays[name].dtype), arrays[name].ndim, place(where, name))
    blocks = [ArrayBlocks(arrays[name], place(where, name)) for name in names]
    rows, is_one = arrays[names[0]].shape[0], "" in arrays
    span = msgspec.structs.replace(metadata, stop=rows)
    inside = {arrays[""].path: ""} if is_one else {}
    ref = SplitRef("zarr", [span], [] if is_one else list(names), inside)
    step = max(one.chunk_rows for one in blocks)
    largest = round(sum(one.row_bytes for one in blocks) * step)
    borders = [*range(0, rows, step * max(1, rows // step // _MOST_BORDERS)), rows]
    table = None if is_one else Table(names, lambda chosen: _reader(where, metadata, arrays, chosen, {}), others)
    return SplitSource(PurePosixPath(where).name, sum(one.row_bytes for one in blocks), ref, borders, largest, table)


def _arrays(group: Any, nested: bool) -> Iterator[tuple[str, Any]]:
    yield from group.arrays()
    for name, below in group.groups() if nested else ():
        yield from ((f"{name}/{inner}", array) for inner, array in _arrays(below, nested))
