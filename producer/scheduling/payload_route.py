"""Chooses the way of a job's rows: in their own files, by the shared spool folder, or through Redis.

The fastest that every slot of the job can take: what workers read themselves needs files under their roots, and what
else goes by files a spool folder that both sides see.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, Literal

import msgspec
import numpy as np

from producer.rows.kept import ROW, KeptColumns
from producer.rows.source import splits_of
from producer.scheduling.job_options import JobOptions, JobSpec
from producer.sources import ArraySource, BatchSource, ObjectArray, Source
from tasks.protocol.codec import DTYPES, dtype_name
from tasks.protocol.messages import FolderReply, InPlaceRef, SliceRef, StoreName, pack
from tasks.protocol.plan import LeftOutput
from tasks.protocol.records import ModelInfo, SlotRecord
from tasks.protocol.split_ref import READS_OBJECTS, SplitRef
from tasks.transport import spool
from worker_config.errors import UsageError
from worker_config.files import is_under
from worker_config.object_urls import is_url
from worker_config.settings import Settings

# Of what a detached job's record says of the places of its rows.
MAX_PLAN_BYTES = 2**20
_MOST_NAMED = 3
# Those that are called otherwise than what they read.
_EXTRAS = dict.fromkeys(("arrow", "csv", "jsonl"), "parquet")
_OUTSIDE = "it is under no folder that all workers may read (CELERIAC_DATA_ROOTS)"


def choose_store(
    source: Source | BatchSource,
    slots: Sequence[SlotRecord],
    settings: Settings,
    asked: StoreName | None,
    *,
    detached: bool = False,
) -> tuple[StoreName, InPlaceRef | None]:
    """The store for this data set and these slots, and where its rows stand, if workers read them there.

    Raises:
        UsageError: the store that was asked for cannot be had; the text says why.
    """
    shares_spool = _shares_spool(slots, settings)
    found = _in_place(source, slots, detached) if asked in (None, "slices") else ""
    if asked == "slices" and isinstance(found, str):
        raise UsageError(f"{source.label}: workers cannot read slices of it: {found}; leave the store out")
    if asked == "files" and not shares_spool:
        raise UsageError("workers do not share a spool folder with this process; set CELERIAC_SPOOL on both sides")
    if not isinstance(found, str):
        return "slices", found
    if shares_spool and asked in (None, "files"):
        return "files", None
    return "redis", None


def choose_route(
    settings: Settings,
    source: Source | BatchSource,
    infos: Sequence[ModelInfo],
    slots: Sequence[SlotRecord],
    options: JobOptions,
    whole: Source | BatchSource,
) -> JobSpec:
    """The job for this data set; workers read its rows in their files where they can read all that is kept there too.

    `whole` is the data set with the columns that are not for the models.

    Raises:
        UsageError: as `choose_store`; it has no columns to keep.
        InputError: it has not these.
    """
    names = [name for name in options.keep if name != ROW]  # which files have anyway
    kept = KeptColumns(whole, names, [info.name for info in infos]) if names else None
    store, in_place = choose_store(source, slots, settings, options.store, detached=options.detach)
    if kept is None or in_place is None:
        return JobSpec(options, infos, slots, store, in_place, kept)
    beside = kept.read_anywhere()
    found = _in_place(beside, slots, options.detach) if beside else ""
    if isinstance(found, SplitRef):
        return JobSpec(options, infos, slots, store, in_place, kept, found)
    if options.store == "slices":
        why_not = found if isinstance(found, str) else "they stand in no file that can be cut"
        raise UsageError(f"{source.label}: workers cannot read what is kept: {why_not}; leave the store out")
    return JobSpec(options, infos, slots, "files" if _shares_spool(slots, settings) else "redis", None, kept)


def why(
    source: Source | BatchSource,
    slots: Sequence[SlotRecord],
    settings: Settings,
    asked: StoreName | None,
    *,
    detached: bool = False,
) -> str:
    """What to tell of the store that `choose_store` has chosen for the same: why this one, and not a faster one.

    Raises:
        UsageError: as `choose_store`.
    """
    chosen, _ = choose_store(source, slots, settings, asked, detached=detached)
    if asked:
        return "as was asked for"
    if isinstance(found := _in_place(source, slots, detached), SliceRef):
        return "workers read the rows in their own file"
    if isinstance(found, SplitRef):
        return f"workers read the rows in their own {'files' if len(found.spans) > 1 else 'file'}"
    if chosen == "files":
        return f"{found}, but all share the spool folder"
    return f"{found}, and not all share a spool folder with this process (CELERIAC_SPOOL)"


def as_read(source: Source | BatchSource, in_place: InPlaceRef | None) -> Source | BatchSource:
    """The data set as a job takes it: of one whose splits workers read, rows from anywhere."""
    splits = splits_of(source)
    return splits.open() if splits and isinstance(in_place, SplitRef) else source


def choose_reply(store: StoreName, slots: Sequence[SlotRecord], settings: Settings) -> Literal["redis", "files"]:
    """The way of large outputs back: files only where both sides see them, also when rows are slices."""
    return "files" if store != "redis" and _shares_spool(slots, settings) else "redis"


def check_writable(reply: FolderReply | LeftOutput | None, slots: Sequence[SlotRecord]) -> None:
    """Raise UsageError unless all workers may write where they are to leave outputs."""
    if reply and (lacking := sorted({slot.worker for slot in slots if not is_under(reply.folder, slot.output_roots)})):
        beside = reply.folder.rsplit("/", 2)[0] or "/"  # the output, in which the hidden folder is
        file = "write a single file"
        if isinstance(reply, LeftOutput):
            file = "leave out the output, and have `celeriac fetch JOB -o OUTPUT` write it"
        raise UsageError(
            f"{beside}: {', '.join(lacking)} may not write there: it is under no folder of their "
            f"CELERIAC_OUTPUT_ROOTS; start the workers with CELERIAC_OUTPUT_ROOTS={beside}, or {file}"
        )


def _shares_spool(slots: Sequence[SlotRecord], settings: Settings) -> bool:
    marks = {slot.spool_mark for slot in slots}
    return settings.spool is not None and all(spool.has_mark(settings.spool, mark) for mark in marks)


def _in_place(source: Source | BatchSource, slots: Sequence[SlotRecord], detached: bool) -> InPlaceRef | str:
    """Where the rows of a data set stand, for the workers of these slots; or why they cannot read them there."""
    roots = {tuple(slot.data_roots) for slot in slots}
    if splits := splits_of(source):
        if lacking := _lacking(splits.format, splits.paths(), slots):
            return lacking
        if not _reach(roots, splits.paths()):
            return _OUTSIDE
        ref = splits.open().in_place()
        if detached and isinstance(ref, SplitRef):
            ref = msgspec.structs.replace(ref, spans=list(ref.spans))
            if len(pack(ref)) > MAX_PLAN_BYTES:
                return "it has too many files, or blocks, for the plan of a detached job"
        return ref
    found = _slice_ref(source)
    if isinstance(found, str):
        return found
    return _lacking("", [found.path], slots) or (found if _reach(roots, {found.path}) else _OUTSIDE)


def _lacking(format_name: str, paths: Iterable[str], slots: Sequence[SlotRecord]) -> str:
    """Which libraries workers lack to read such files where they are; empty where they lack none."""
    needed = [*([format_name] if format_name else []), *([READS_OBJECTS] if any(map(is_url, paths)) else [])]
    for name in needed:
        if workers := sorted({slot.worker for slot in slots if name not in slot.reads}):
            return (
                f"not every worker has the library that reads {name} ({', '.join(workers[:_MOST_NAMED])}"
                f"{', ...' if len(workers) > _MOST_NAMED else ''}; pip install 'celeriac[{_EXTRAS.get(name, name)}]')"
            )
    return ""


def _reach(roots: Collection[Sequence[str]], paths: Iterable[str]) -> bool:
    return all(is_under(path, some) for path in paths for some in roots)


def _slice_ref(source: Source | BatchSource) -> SliceRef | str:
    """Where the rows of an array stand in its file; or why workers cannot read them there."""
    if isinstance(source, ObjectArray):
        name, stamp = _as_they_stand(source.dtype), source.object.stamp
        if name not in DTYPES:
            return name
        return SliceRef(
            str(source.object), stamp.size, stamp.mtime_ns, source.offset, name, source.row_shape, stamp.etag
        )
    if not isinstance(source, ArraySource) or source.stamp is None or not isinstance(source.data, np.memmap):
        return "its rows stand in no .npy file"
    data = source.data
    if not data.flags.c_contiguous:
        return "its file has the array in Fortran order, so no row is in one piece (save np.ascontiguousarray of it)"
    name = _as_they_stand(data.dtype)
    if name not in DTYPES:
        return name
    if source.path is None:
        return "its rows stand in no .npy file of their own"
    # As the file was when it was opened: by now it may be another one.
    size, mtime_ns = source.stamp
    return SliceRef(str(source.path.resolve()), size, mtime_ns, data.offset, name, tuple(data.shape[1:]))


def _as_they_stand(dtype: np.dtype[Any]) -> str:
    """The name of a dtype whose values travel as a file has them; or why they do not."""
    name = dtype_name(dtype)
    if name is None:
        return f"its file has values of dtype {dtype}, which are not taken as they stand there"
    if dtype != dtype.newbyteorder("<"):
        return "its file has big-endian numbers (save array.astype(array.dtype.newbyteorder('<')))"
    if name == "bool":  # whose bytes may be neither 0 nor 1, which only the codec looks at
        return "its file has booleans, which are looked at before they are sent (save them as uint8)"
    return name
