"""WebDataset shards: tar files whose members of one key are a row --> a column of bytes for each extension.

headers alone --blocks_of--> where in the file the rows of each block of some MiB begin and end
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from tasks.datasets.formats.reader import BlockReader
from tasks.datasets.input_limit import input_limit
from tasks.datasets.marked import marked
from tasks.datasets.rows import MAX_BATCH_BYTES, Batches, Rows
from tasks.protocol.split_ref import FileSpan, SplitRef

# What is read to come to one of its rows is read from the beginning.
_BLOCK_BYTES = 4 * 2**20
KEY = "__key__"


class TarRows(BlockReader):
    """Members of one shard by extension, and by "__key__" what their names have in common."""

    def __init__(self, file: BinaryIO, ref: SplitRef, where: str, threads: bool) -> None:
        super().__init__(file)
        self._columns, self._where, self._limit = ref.columns, where, input_limit()

    def batches(self, span: FileSpan) -> Batches:
        """The rows of the span's block; one that lacks a member is marked."""
        row, _, end = self._block(span)
        gathered: list[dict[str, Any]] = []
        size = first = 0
        with tarfile.open(fileobj=self._file, mode="r:") as archive:
            for key, members in _rows_in(archive, end):
                values: dict[str, Any] = {KEY: key}
                for extension, member in members.items():
                    if extension in self._columns:
                        self._limit.check(member.size, self._where, f"member {member.name!r}")
                        stream = archive.extractfile(member)
                        values[extension] = stream.read() if stream else b""
                        size += member.size
                gathered.append(values)
                if size >= MAX_BATCH_BYTES:
                    yield self._batch(gathered, row + first)
                    first, size, gathered = first + len(gathered), 0, []
        if gathered:
            yield self._batch(gathered, row + first)

    def _batch(self, gathered: list[dict[str, Any]], first_row: int) -> Rows:
        columns = {name: np.full(len(gathered), "" if name == KEY else b"", object) for name in self._columns}
        unfed: dict[int, str] = {}
        for at, values in enumerate(gathered):
            for name, column in columns.items():
                if name in values:
                    column[at] = values[name]
                else:
                    unfed.setdefault(at, f"{self._where}: row {first_row + at} ({values[KEY]}) has no member {name!r}")
        return marked(columns, unfed)


def blocks_of(file: BinaryIO, where: str) -> list[tuple[int, int, int]]:
    """The blocks of a shard, by the headers of its members; at the end how many rows there are."""
    blocks: list[tuple[int, int, int]] = []
    row = first = begin = at = 0
    size = file.seek(0, 2)
    file.seek(0)
    with tarfile.open(fileobj=file, mode="r:") as archive:
        for _, members in _rows_in(archive, size):
            at = min(member.offset for member in members.values())
            if at - begin >= _BLOCK_BYTES and row > first:
                blocks.append((first, begin, at))
                first, begin = row, at
            row += 1
    return [*blocks, (first, begin, size), (row, size, size)] if row > first else [*blocks, (row, size, size)]


def extensions_of(file: BinaryIO) -> list[str]:
    """Those of the first row's members, in their order."""
    file.seek(0)
    with tarfile.open(fileobj=file, mode="r:") as archive:
        for _, members in _rows_in(archive, file.seek(0, 2)):
            return list(members)
    return []


def _rows_in(archive: tarfile.TarFile, end: int) -> Iterator[tuple[str, dict[str, tarfile.TarInfo]]]:
    """The members of each row, which follow each other, up to this byte of the file."""
    key, members = "", dict[str, tarfile.TarInfo]()
    while (member := archive.next()) is not None and member.offset < end:
        archive.members = []  # type: ignore[attr-defined]  # which would all be kept
        folder, slash, name = member.name.rpartition("/")
        stem, _, extension = name.partition(".")
        if not member.isfile() or not stem:
            continue
        if f"{folder}{slash}{stem}" != key and members:
            yield key, members
            members = {}
        key = f"{folder}{slash}{stem}"
        members[extension.lower()] = member
    if members:
        yield key, members
