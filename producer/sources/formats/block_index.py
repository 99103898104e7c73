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
from worker_config.decodable import decodable
from worker_config.files import write_whole
from worker_config.object_urls import is_url
from worker_config.settings import Settings

# The first row of a block, and the bytes [begin, end) that it has in the file; of the file's end no bytes.
Block: TypeAlias = tuple[int, int, int]


class _Index(msgspec.Struct):
    size: int
    mtime_ns: int
    etag: str
    blocks: list[Block]


@dataclass(frozen=True)
class FileBlocks:
    """Where the rows of one file stand.

    Attributes:
        file: what `span_of` gave of it when it was opened.
        format: its name.
        blocks: the last one is the file's end, with the number of rows.
    """

    file: FileSpan
    format: FormatName
    blocks: list[Block]


def indexed(file: FileSpan, name: FormatName, make: Callable[[BinaryIO, str], list[Block]]) -> FileBlocks:
    """The blocks of a file, which `make` gives of it now, or gave before.

    Raises:
        InputError: the file cannot be read, or has changed since it was opened.
    """
    kept, stamp = _place_of(file.path, name), (file.size, file.mtime_ns, file.etag)
    with suppress(OSError, msgspec.MsgspecError):
        known = msgspec.msgpack.decode(kept.read_bytes(), type=decodable(_Index))
        if (known.size, known.mtime_ns, known.etag) == stamp:
            return FileBlocks(file, name, known.blocks)
    with one_line_errors(file.path), Opener().open(file) as opened:
        blocks = make(opened, file.path)
    with suppress(OSError):  # without it the file is read again next time
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_whole(kept, msgspec.msgpack.encode(_Index(*stamp, blocks)))
    return FileBlocks(file, name, blocks)


def _place_of(path: str, name: FormatName) -> Path:
    place = path if is_url(path) else os.path.realpath(path)
    known_by = hashlib.sha256(f"{name}\0{place}".encode("utf-8", "surrogateescape"))
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
    for one in files:
        for block, (stop, _, _) in pairwise(one.blocks):
            if stop > block[0]:
                span = msgspec.structs.replace(one.file, first=row, start=block[0], stop=stop, block=block)
                spans.append(span)
                row += stop - block[0]
    ref = SplitRef(files[0].format, spans, list(columns), dict(kinds or {}))
    row_bytes = sum(one.file.size for one in files) / max(1, row)
    largest = max((span.stop - span.start for span in spans), default=0)
    return SplitSource(label, row_bytes, ref, [*(span.first for span in spans), row], round(largest * row_bytes))
