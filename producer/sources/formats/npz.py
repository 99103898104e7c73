"""An `.npz` object behind a URL --headers of its arrays--> a data set, which workers may read themselves."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from producer.rows.source import Table
from producer.sources.files import find_data, span_of
from producer.sources.formats.split_source import SplitSource
from tasks.datasets.columns import check_lengths, check_rows, is_taken, missing_column, no_array, place
from tasks.datasets.formats.npz import is_as_given, stored_arrays
from tasks.datasets.open_file import Opener
from tasks.datasets.read_errors import one_line_errors
from tasks.protocol.split_ref import SplitRef
from worker_config.errors import InputError


def open_object_npz(url: str, array: str | None = None) -> SplitSource:
    """Open the arrays of an `.npz` object by name, or one `array` of them.

    Raises:
        InputError: it cannot be read, or an array that is taken does not stand in it as it is: it is compressed, in
            Fortran order, or of a dtype whose values are not taken as they stand.
    """
    [found] = find_data(url, ".npz")
    where, file = str(found), span_of(found)
    with one_line_errors(where), Opener().open(file) as stream:
        arrays = stored_arrays(stream, where, None if array is None else [array])
    if array is not None and array not in arrays:
        raise no_array(where, array, arrays)
    others = {name: str(one.dtype) for name, one in arrays.items() if not one.shape or not is_taken(one.dtype)}

    def reader(names: Sequence[str], is_one: bool = False) -> SplitSource:
        for name in names:
            if name not in arrays:
                raise missing_column(where, name, arrays)
            dtype, shape = arrays[name].dtype, arrays[name].shape
            check_rows(dtype, len(shape), place(where, name))
            if not is_as_given(dtype):
                raise InputError(
                    f"{place(where, name)}: values of dtype {dtype} are not taken as they stand there; save them as "
                    f"{np.dtype(np.uint8) if dtype == np.bool_ else dtype.newbyteorder('=')}, or copy the object here"
                )
        rows = check_lengths({name: arrays[name].shape[0] for name in names}, where)
        span = msgspec.structs.replace(file, stop=rows)
        ref = SplitRef("npz", [span], [] if is_one else list(names), dict.fromkeys(names, "") if is_one else {})
        row_bytes = sum(arrays[name].row_bytes for name in names)
        table = None if is_one else Table(names, reader, others)
        return SplitSource(found.name, row_bytes, ref, [0, rows], table=table)

    if array is not None:
        return reader([array], is_one=True)
    return reader([name for name in arrays if name not in others] or list(arrays))
