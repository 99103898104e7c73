"""Objects as values: what there is, bytes of it, bytes into it.

URL --stat--> ObjectStamp --read_range--> bytes, of the very object that was looked at
prefix --list_objects--> (URL, stamp), page after page
bytes, or a file --put--> the whole object, or none
object --copy, within its store--> another name
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import chain, repeat
from pathlib import Path
from typing import Any

from tasks.storage.requests import answered
from tasks.storage.stores import obstore, store_of
from tasks.storage.told import told
from worker_config.errors import ObjectChangedError, ObjectError, ObjectExistsError, ObjectMissingError, UsageError
from worker_config.object_urls import WEB, ObjectUrl

# A request takes no longer than its time limit also over a slow line.
PIECE_BYTES = 8 * 2**20
_PAGE_OBJECTS = 1_000
# What takes long is told by the MiB.
_TOLD_BYTES = 2**20
# A request takes no longer for so much within a store either.
_MOST_COPIED_BYTES = 2**30
# Of one object, as S3 has it.
_MOST_PIECES = 10_000
# Of a stamp that holds for any object of its size.
_ANY_TIME = -1


@dataclass(frozen=True, slots=True)
class ObjectStamp:
    """What tells an object from what it was: its size in bytes, its ETag, and when it was written.

    Attributes:
        etag: empty where the store gives none; then the time decides.
        version: what some stores know a state of it by when it is to be replaced; empty in lists.
    """

    size: int
    mtime_ns: int
    etag: str
    version: str = ""


def stat(url: ObjectUrl) -> ObjectStamp:
    """What the store says of an object.

    Raises:
        ObjectError: see `answered`.
    """
    store = _object(url)
    return _stamp(answered(url, "look at", lambda: obstore().head(store, url.key)))


def read_range(url: ObjectUrl, stamp: ObjectStamp, start: int, stop: int) -> memoryview:
    """The bytes `[start, stop)` of the object that `stamp` was taken of, in as many requests as they need.

    Raises:
        ObjectChangedError: it is another object by now, or ends before.
        ObjectError: see `answered`.
    """
    if not 0 <= start <= stop <= stamp.size:
        raise ObjectChangedError(f"{url}: has {stamp.size} bytes, and no bytes {start}-{stop}; write it again")
    if start == stop:
        return memoryview(b"")
    if stop - start <= PIECE_BYTES:
        return _piece(url, stamp, start, stop)
    whole = bytearray(stop - start)
    for first in range(start, stop, PIECE_BYTES):
        last = min(first + PIECE_BYTES, stop)
        whole[first - start : last - start] = _piece(url, stamp, first, last)
    return memoryview(whole)


def read_now(url: ObjectUrl, start: int = 0, stop: int | None = None) -> bytes | None:
    """The bytes `[start, stop)` of an object as it is now, or its last ones, where `start` is negative.

    None where there is no such object.

    Raises:
        ObjectError: see `answered`.
    """
    store, library = _object(url), obstore()
    kind: Any = {"suffix": -start} if start < 0 else {"offset": start} if stop is None else (start, stop)
    options = {"range": kind} if start or stop is not None else {}
    try:
        return bytes(answered(url, "read", lambda: library.get(store, url.key, options=options).bytes()))
    except ObjectMissingError:
        return None


def list_folder(prefix: ObjectUrl) -> list[str]:
    """The names of the folders and objects in a folder, in no order; all are in memory.

    Raises:
        ObjectError: see `answered`.
        UsageError: web servers have no lists.
    """
    store, inside = _listed(prefix)
    found = answered(prefix, "list", lambda: obstore().list_with_delimiter(store, inside))
    paths = [*found["common_prefixes"], *(meta["path"] for meta in found["objects"])]
    return [path.rstrip("/").rpartition("/")[2] for path in paths]


def read_whole(url: ObjectUrl, size: int) -> memoryview:
    """The bytes of an object that has so many; whether they are those that were written, the caller's checksum tells.

    Raises:
        ObjectChangedError: it has another size.
        ObjectError: see `answered`.
    """
    return read_range(url, ObjectStamp(size, _ANY_TIME, ""), 0, size)


def list_objects(prefix: ObjectUrl) -> Iterator[tuple[ObjectUrl, ObjectStamp]]:
    """The objects under a prefix of whole segments, as the store gives them, a page at a time in memory.

    Raises:
        ObjectError: see `answered`; also from the iterator.
        UsageError: web servers have no lists.
    """
    library, (store, inside) = obstore(), _listed(prefix)
    pages: Any = None
    last = ""

    def next_page() -> Any:
        nonlocal pages
        if pages is None:
            pages = library.list(store, inside, offset=last or None, chunk_size=_PAGE_OBJECTS)
        try:
            return next(pages, None)
        except BaseException:
            pages = None  # which would say next that there are no more
            raise

    while (page := answered(prefix, "list", next_page)) is not None:
        for meta in page:
            last = meta["path"]
            yield ObjectUrl(prefix.scheme, prefix.bucket, last), _stamp(meta)


def put(
    url: ObjectUrl, data: bytes | Path, *, replace: bool = True, expected: ObjectStamp | None = None
) -> ObjectStamp:
    """Write a whole object, in parts where it is large; nothing is there until all of it is. Its stamp has no time.

    Args:
        url: of the object.
        data: its bytes, or a file that has them.
        replace: whether one that is there gives way.
        expected: the one that gives way, as `put` or `stat` gave it.

    Raises:
        ObjectExistsError: one is there, and may not be replaced.
        ObjectChangedError: the one that is there is not the one that was expected.
        ObjectError: see `answered`.
    """
    store, library = _object(url), obstore()
    mode: Any = "overwrite" if replace else "create"
    if expected:
        mode = {"e_tag": f'"{expected.etag}"', **({"version": expected.version} if expected.version else {})}
    # What depends on what is there goes in one request: stores know no condition for many parts.
    size = data.stat().st_size if isinstance(data, Path) else len(data)
    piece = max(PIECE_BYTES, -(-size // _MOST_PIECES))
    parts = {"use_multipart": False} if mode != "overwrite" else {"chunk_size": piece, "max_concurrency": 2}

    def source() -> Any:
        if not isinstance(data, Path) or size <= piece or mode != "overwrite":
            return data
        return told(_pieces(data), f"{url}: MiB sent", -(-size // _TOLD_BYTES))

    written = answered(url, "write", lambda: library.put(store, url.key, source(), mode=mode, **parts))
    return ObjectStamp(size, _ANY_TIME, _etag(written), written["version"] or "")


def put_new(url: ObjectUrl, path: Path, beside: ObjectUrl) -> None:
    """Write a file as an object that is not there, however large it is.

    What goes in many parts knows no condition: it is written `beside` first, and copied if there is no object by then.
    Of more than a store copies in the time of a request, it is looked for before the parts are sent.

    Raises:
        ObjectExistsError: one is there.
        ObjectError: see `answered`.
    """
    if path.stat().st_size <= _MOST_COPIED_BYTES:
        put(beside, path)
        try:
            copy(beside, url, replace=False)
        finally:
            with suppress(ObjectError):
                delete([beside], waits=False)
        return
    with suppress(ObjectMissingError):
        stat(url)
        raise ObjectExistsError(f"{url}: is there already; choose another name, or delete it")
    put(url, path)


def download(url: ObjectUrl, stamp: ObjectStamp, path: Path) -> None:
    """Write an object's bytes into a new file, brought to the disk.

    Raises:
        ObjectError: see `read_range`.
        OSError: the file cannot be written.
    """
    with path.open("xb") as file:
        for start in range(0, stamp.size, PIECE_BYTES):
            file.write(read_range(url, stamp, start, min(start + PIECE_BYTES, stamp.size)))
        file.flush()
        os.fsync(file.fileno())


def copy(source: ObjectUrl, target: ObjectUrl, *, replace: bool = True) -> None:
    """Give an object's bytes another name in the same bucket, whole; the store does it.

    Raises:
        ObjectExistsError: one is there, and may not be replaced.
        ObjectError: see `answered`.
    """
    store = _object(source)
    answered(source, "copy", lambda: obstore().copy(store, source.key, target.key, overwrite=replace))


def delete(urls: Sequence[ObjectUrl], *, waits: bool = True) -> None:
    """Delete objects of one bucket; one that is not there is no error.

    Args:
        urls: of the objects.
        waits: whether a store that is busy or gone is waited for.

    Raises:
        ObjectError: see `answered`.
    """
    for first in range(0, len(urls), _PAGE_OBJECTS):
        some = urls[first : first + _PAGE_OBJECTS]
        store, keys = _object(some[0]), [url.key for url in some]
        with suppress(ObjectMissingError):
            answered(some[0], "delete", lambda: obstore().delete(store, keys), waits=waits)  # noqa: B023


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_TOLD_BYTES):
            yield piece


def _piece(url: ObjectUrl, stamp: ObjectStamp, start: int, stop: int) -> memoryview:
    _object(url)
    # Bytes come within moments, or the request has got lost; a store that is only slow is then given its time.
    library, stores = obstore(), chain([store_of(url, patient=False)], repeat(store_of(url)))
    options: dict[str, Any] = {"range": (start, stop)}
    if stamp.etag and not stamp.etag.startswith("W/"):  # of which servers say that it never matches
        options["if_match"] = f'"{stamp.etag}"'

    def request() -> tuple[Any, ObjectStamp]:
        result = library.get(next(stores), url.key, options=options)
        return result.bytes(), _stamp(result.meta)

    data, found = answered(url, "read", request)
    same = found.size == stamp.size and stamp.etag in ("", found.etag)
    if not stamp.etag and stamp.mtime_ns != _ANY_TIME:
        same = (found.size, found.mtime_ns, found.etag) == (stamp.size, stamp.mtime_ns, "")
    if not same or len(data) != stop - start:
        raise ObjectChangedError(
            f"{url}: has changed since it was looked at; leave objects as they are while a job reads them"
        )
    return memoryview(data)


def _listed(prefix: ObjectUrl) -> tuple[Any, str | None]:
    """Where a folder is listed, and by what."""
    if prefix.scheme in WEB:
        raise UsageError(f"{prefix}: web servers do not list what they have; name each object")
    return store_of(prefix), f"{prefix.key}/" if prefix.key else None


def _object(url: ObjectUrl) -> Any:
    if not url.key or url.is_folder:
        raise ObjectMissingError(f"{url}: names no object; leave the / at the end out")
    return store_of(url)


def _stamp(meta: Any) -> ObjectStamp:
    modified: datetime = meta["last_modified"]
    return ObjectStamp(meta["size"], int(modified.timestamp()) * 10**9, _etag(meta), meta["version"] or "")


def _etag(meta: Any) -> str:
    """Without quotes, which some stores give in answers and leave out in lists."""
    etag: str = meta["e_tag"] or ""
    return etag if etag.startswith("W/") else etag.strip('"')
