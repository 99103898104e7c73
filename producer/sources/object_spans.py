"""Objects that are a row each --> spans of a split, made when they are asked for: of a million none is kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import overload

import msgspec

from producer.sources.files import span_of
from tasks.protocol.split_ref import FileSpan
from tasks.storage.object_list import ObjectList, ObjectPath


class ObjectSpans(Sequence[FileSpan]):
    """The spans of a list of objects, each of which is the row of its number."""

    def __init__(self, objects: ObjectList) -> None:
        self._objects = objects

    def __len__(self) -> int:
        return len(self._objects)

    @overload
    def __getitem__(self, at: int) -> FileSpan: ...
    @overload
    def __getitem__(self, at: slice) -> list[FileSpan]: ...
    def __getitem__(self, at: int | slice) -> FileSpan | list[FileSpan]:
        rows = range(len(self))[at]
        if isinstance(rows, int):
            return object_span(self._objects[rows], rows)
        return [object_span(self._objects[row], row) for row in rows]

    def paths(self) -> Iterator[str]:
        """The path of each."""
        return self._objects.urls()


def object_span(one: ObjectPath, row: int) -> FileSpan:
    """All of an object, which is this row of the data set."""
    return msgspec.structs.replace(span_of(one), first=row, stop=1)
