"""Files that do not say where a row stands --one pass--> their blocks, kept in the cache until the file changes.

CACHE/indexes/HASH.msgpack     of one file: its stamp, and of each block the first row and the bytes that it has
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, TypeAlias

import msgspec

from producer.sources.formats.split_source import SplitSource
from tasks.datasets.open_file import Opener
from tasks.datasets.read_errors import one_line_errors
from tasks.protocol.split_ref import FileSpan, FormatName, SplitRef
from tasks.snapshots.cache import cache_folder
from worker_config.files import write_whole
from worker_config.settings import Settings

# The first row of a block, and the bytes [begin, end) that it has in the file; of the file's end no bytes.
Block: TypeAlias = tuple[int, int, int]


class _Index(msgspec.Struct):
    size: int
    mtime_ns: int
    blocks: list[Block]


@dataclass(frozen=True)
class FileBlocks:
    """Where the rows of one file stand.

    Attributes:
        path: of the file.
        stamp: its size and time when it was opened.
        format: its name.
        blocks: the last one is the file's end, with the number of rows.
    """

    path: str
    stamp: tuple[int, int]
    format: FormatName
    blocks: list[Block]


def indexed(
    path: str, stamp: tuple[int, int], name: FormatName, make: Callable[[BinaryIO, str], list[Block]]
) -> FileBlocks:
    """The blocks of a file, which `make` gives of it now, or gave before.

    Raises:
        InputError: the file cannot be read, or has changed since it was opened.
    """
    kept = _place_of(path, name)
    with suppress(OSError, msgspec.MsgspecError):
        known = msgspec.msgpack.decode(kept.read_bytes(), type=_Index)
        if (known.size, known.mtime_ns) == stamp:
            return FileBlocks(path, stamp, name, known.blocks)
    with one_line_errors(path), Opener().open(FileSpan(path, *stamp, 0, 0, 0)) as file:
        blocks = make(file, path)
    with suppress(OSError):  # without it the file is read again next time
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_whole(kept, msgspec.msgpack.encode(_Index(*stamp, blocks)))
    return FileBlocks(path, stamp, name, blocks)


def _place_of(path: str, name: FormatName) -> Path:
    known_by = hashlib.sha256(f"{name}\0{os.path.realpath(path)}".encode("utf-8", "surrogateescape"))
    return cache_folder(Settings.from_env()) / "indexes" / f"{known_by.hexdigest()[:32]}.msgpack"


def split_source(
    label: str,
    files: Sequence[FileBlocks],
    columns: Sequence[str] = (),
    kinds: Mapping[str, str] | None = None,
) -> SplitSource:
    """The data set of these files, one after the other."""
    spans: list[FileSpan] = []
    row = 0
    for file in files:
        for block, (stop, _, _) in pairwise(file.blocks):
            if stop > block[0]:
                spans.append(FileSpan(file.path, *file.stamp, row, block[0], stop, block))
                row += stop - block[0]
    ref = SplitRef(files[0].format, spans, list(columns), dict(kinds or {}))
    row_bytes = sum(file.stamp[0] for file in files) / max(1, row)
    largest = max((span.stop - span.start for span in spans), default=0)
    return SplitSource(label, row_bytes, ref, [*(span.first for span in spans), row], round(largest * row_bytes))
