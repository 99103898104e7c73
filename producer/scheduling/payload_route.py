"""Chooses the way of a job's rows: slices of their own file, the shared spool folder, or Redis.

The fastest that every slot of the job can take: slices need a file under the workers' roots, files a spool folder that
both sides see.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from producer.sources import ArraySource, BatchSource, Source
from tasks.protocol.codec import dtype_name
from tasks.protocol.messages import SliceRef, StoreName
from tasks.protocol.records import SlotRecord
from tasks.transport import spool
from worker_config.errors import UsageError
from worker_config.files import is_under
from worker_config.settings import Settings


def choose_store(
    source: Source | BatchSource, slots: Sequence[SlotRecord], settings: Settings, asked: StoreName | None
) -> tuple[StoreName, SliceRef | None]:
    """The store for this data set and these slots, and where its rows stand, for slices.

    Raises:
        UsageError: the store that was asked for cannot be had; the text says why.
    """
    found = _slice_ref(source)
    slice_ref = None if isinstance(found, str) else found
    shares_spool = _shares_spool(slots, settings)
    reaches_file = slice_ref is not None and all(is_under(slice_ref.path, slot.data_roots) for slot in slots)
    if asked == "slices" and not reaches_file:
        why = found if isinstance(found, str) else "it is under no folder of CELERIAC_DATA_ROOTS"
        raise UsageError(f"{source.label}: workers cannot read slices of it: {why}; leave the store out")
    if asked == "files" and not shares_spool:
        raise UsageError("workers do not share a spool folder with this process; set CELERIAC_SPOOL on both sides")
    if reaches_file and asked in (None, "slices"):
        return "slices", slice_ref
    if shares_spool and asked in (None, "files"):
        return "files", None
    return "redis", None


def why(source: Source | BatchSource, slots: Sequence[SlotRecord], settings: Settings, asked: StoreName | None) -> str:
    """What to tell of the store that `choose_store` has chosen for the same: why this one, and not a faster one.

    Raises:
        UsageError: as `choose_store`.
    """
    chosen, _ = choose_store(source, slots, settings, asked)
    if asked:
        return "as was asked for"
    if chosen == "slices":
        return "workers read the rows in their own file"
    if isinstance(found := _slice_ref(source), str):
        no_slices = found
    else:
        no_slices = "the file is under no folder that all workers may read (CELERIAC_DATA_ROOTS)"
    if chosen == "files":
        return f"{no_slices}, but all share the spool folder"
    return f"{no_slices}, and not all share a spool folder with this process (CELERIAC_SPOOL)"


def choose_reply(store: StoreName, slots: Sequence[SlotRecord], settings: Settings) -> Literal["redis", "files"]:
    """The way of large outputs back: files only where both sides see them, also when rows are slices."""
    return "files" if store != "redis" and _shares_spool(slots, settings) else "redis"


def _shares_spool(slots: Sequence[SlotRecord], settings: Settings) -> bool:
    return settings.spool is not None and all(spool.has_mark(settings.spool, slot.spool_mark) for slot in slots)


def _slice_ref(source: Source | BatchSource) -> SliceRef | str:
    """Where the rows of a data set stand, for slices; or why workers cannot read them there."""
    if not isinstance(source, ArraySource) or source.stamp is None or not isinstance(source.data, np.memmap):
        return "its rows stand in no .npy file"
    data = source.data
    if not data.flags.c_contiguous:
        return "its file has the array in Fortran order, so no row is in one piece (save np.ascontiguousarray of it)"
    name = dtype_name(data.dtype)
    if name is None:
        return f"its file has values of dtype {data.dtype}, which are not taken as they stand there"
    if data.dtype != data.dtype.newbyteorder("<"):
        return "its file has big-endian numbers (save array.astype(array.dtype.newbyteorder('<')))"
    if name == "bool":  # whose bytes may be neither 0 nor 1, which only the codec looks at
        return "its file has booleans, which are looked at before they are sent (save them as uint8)"
    if source.path is None:
        return "its rows stand in no .npy file of their own"
    # As the file was when it was opened: by now it may be another one.
    size, mtime_ns = source.stamp
    return SliceRef(str(source.path.resolve()), size, mtime_ns, data.offset, name, tuple(data.shape[1:]))
