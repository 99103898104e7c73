"""HDF5 files --names, shapes and dtypes alone--> a data set of the datasets in them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from producer.rows.source import Table
from producer.sources.files import find_data, span_of
from producer.sources.formats.split_source import SplitSource
from tasks.datasets.columns import check_lengths, check_rows, is_taken, missing_column, no_array, place
from tasks.datasets.formats.hdf5 import datasets_of, h5py_file
from tasks.datasets.open_file import Opener
from tasks.datasets.read_errors import check_file, one_line_errors
from tasks.protocol.split_ref import SplitRef
from worker_config.errors import InputError
from worker_config.foreign_errors import import_optional
from worker_config.object_urls import is_url


def open_hdf5(path: str | Path, array: str | None = None) -> SplitSource:
    """Open an HDF5 file as its datasets by name, as "values" or "group/values", or one `array` of them.

    Raises:
        InputError: no such file, no datasets in it, or some that are no rows of one data set.
        ConfigError: h5py is not installed.
    """
    h5py = import_optional("h5py", "hdf5")
    where = str(path)
    if not is_url(path):
        check_file(Path(path), "one HDF5 file")
    [found] = find_data(path, "")
    whole = span_of(found)
    with one_line_errors(where), Opener().open(whole) as file, h5py_file(file) as opened:
        known = datasets_of(opened, where)
        sizes = {
            name: (one.dtype, one.shape, (one.chunks or (1,))[0] if one.shape else 1) for name, one in known.items()
        }
    if not known:
        raise InputError(f"{where}: holds no datasets; give at least one")
    if array is not None and array not in sizes:
        raise no_array(where, array, sizes)

    def reader(names: Sequence[str], is_one: bool = False) -> SplitSource:
        for name in names:
            if name not in sizes:
                raise missing_column(where, name, sizes)
            dtype, shape, _ = sizes[name]
            if h5py.check_string_dtype(dtype) is None:
                check_rows(np.dtype(dtype), len(shape), place(where, name))
                if dtype.hasobject:
                    raise InputError(f"{where}: {name!r} has rows of many lengths; save them with one shape")
        rows = check_lengths({name: sizes[name][1][0] for name in names}, where)
        span = msgspec.structs.replace(whole, stop=rows)
        ref = SplitRef("hdf5", [span], [] if is_one else list(names), dict.fromkeys(names, "") if is_one else {})
        row_bytes = sum(math.prod(sizes[name][1][1:]) * sizes[name][0].itemsize for name in names)
        borders = [*range(0, rows, max(1, *(sizes[name][2] for name in names), rows // 100_000)), rows]
        return SplitSource(found.name, row_bytes, ref, borders, table=None if is_one else Table(names, reader, others))

    others = {
        name: str(dtype)
        for name, (dtype, shape, _) in sizes.items()
        if not shape or (h5py.check_string_dtype(dtype) is None and (dtype.hasobject or not is_taken(np.dtype(dtype))))
    }
    if array is not None:
        return reader([array], is_one=True)
    return reader([name for name in sizes if name not in others] or list(sizes))
