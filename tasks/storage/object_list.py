"""Very many objects in little memory: of each its key and ETag in one buffer, and three numbers; about 100 bytes.

(URL, stamp) --append--> ObjectList --in_order, [row]--> ObjectPath, made when it is asked for
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, overload

from tasks.storage.object_file import open_object
from tasks.storage.objects import ObjectStamp
from worker_config.object_urls import ObjectUrl


@dataclass(frozen=True, slots=True)
class ObjectPath:
    """An object as it was when the data set was opened; what is read of it later is the same, or an error."""

    url: ObjectUrl
    stamp: ObjectStamp

    def __str__(self) -> str:
        return str(self.url)

    @property
    def name(self) -> str:
        """Its last segment."""
        return self.url.name

    def open(self, mode: str = "rb") -> BinaryIO:
        """Its bytes, to be read."""
        assert mode == "rb"  # noqa: S101 - as pathlib has it, of which this stands in the place
        return open_object(self.url, self.stamp)


class ObjectList(Sequence[ObjectPath]):
    """Objects of one bucket, as lists of the store give them.

    Args:
        folder: beneath which all of them are.
        found: the first of them.

    Attributes:
        total_bytes: of all together.
    """

    total_bytes: int

    def __init__(self, folder: ObjectUrl, found: Iterable[tuple[ObjectUrl, ObjectStamp]] = ()) -> None:
        self._folder, self._head = folder, f"{folder.key}/" if folder.key else ""
        self._texts, self._ends = bytearray(), array("q", [0])
        self._key_bytes, self._sizes, self._mtimes = array("H"), array("q"), array("q")
        self._last, self._is_in_order = b"", True
        self.total_bytes = 0
        for url, stamp in found:
            self.append(url, stamp)

    def append(self, url: ObjectUrl, stamp: ObjectStamp) -> None:
        """Add an object that is beneath the folder."""
        self._append(url.key[len(self._head) :].encode(), stamp.etag.encode(), stamp.size, stamp.mtime_ns)

    def in_order(self) -> ObjectList:
        """The same objects in the order of their keys, which that of the bytes of UTF-8 is too."""
        if self._is_in_order:  # as most stores list them
            return self
        found = ObjectList(self._folder)
        for at in sorted(range(len(self)), key=self._key):
            found._append(self._key(at), self._etag(at), self._sizes[at], self._mtimes[at])
        return found

    def __len__(self) -> int:
        return len(self._sizes)

    def __iter__(self) -> Iterator[ObjectPath]:
        return map(self._object, range(len(self)))

    @overload
    def __getitem__(self, at: int) -> ObjectPath: ...
    @overload
    def __getitem__(self, at: slice) -> list[ObjectPath]: ...
    def __getitem__(self, at: int | slice) -> ObjectPath | list[ObjectPath]:
        places = range(len(self))[at]
        return self._object(places) if isinstance(places, int) else list(map(self._object, places))

    def urls(self) -> Iterator[str]:
        """The URL of each, as text."""
        return (str(self._url(at)) for at in range(len(self)))

    def _append(self, key: bytes, etag: bytes, size: int, mtime_ns: int) -> None:
        self._is_in_order &= self._last <= key
        self._last = key
        self._texts += key
        self._texts += etag
        self._ends.append(len(self._texts))
        self._key_bytes.append(len(key))
        self._sizes.append(size)
        self._mtimes.append(mtime_ns)
        self.total_bytes += size

    def _object(self, at: int) -> ObjectPath:
        return ObjectPath(self._url(at), ObjectStamp(self._sizes[at], self._mtimes[at], self._etag(at).decode()))

    def _url(self, at: int) -> ObjectUrl:
        return ObjectUrl(self._folder.scheme, self._folder.bucket, self._head + self._key(at).decode())

    def _key(self, at: int) -> bytes:
        start = self._ends[at]
        return bytes(self._texts[start : start + self._key_bytes[at]])

    def _etag(self, at: int) -> bytes:
        return bytes(self._texts[self._ends[at] + self._key_bytes[at] : self._ends[at + 1]])
