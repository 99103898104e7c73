"""Whether a data set is still the same: on disk by names, sizes and times, not by its contents; in memory by these."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import xxhash

from producer.rows.kept import KeptColumns
from producer.rows.readers import rows_between
from producer.rows.source import BatchSource, Source
from producer.sources.files import find_files, is_pattern
from producer.sources.formats.zarr import is_zarr, metadata_of
from producer.sources.partitions import find_partitioned, is_partitioned
from tasks.datasets.kept import with_kept
from tasks.datasets.marked import plain, unfed_of
from tasks.datasets.objects import odd_texts
from tasks.datasets.read_errors import check_file, one_line_errors
from tasks.protocol import codec
from tasks.protocol.unfed_rows import with_unfed
from tasks.storage.object_list import ObjectList, ObjectPath
from tasks.storage.object_paths import find_objects, is_many
from tasks.storage.objects import list_objects
from worker_config.errors import InputError, PayloadError
from worker_config.files import escaped
from worker_config.object_urls import WEB, ObjectUrl, is_url, object_url, redacted_url

# The part that tells one of many files from itself after a change.
DETAILS = "names, sizes and times"
# Rows that are looked at at once.
_LOOK_BYTES = 16 * 2**20


def fingerprint(path: str | Path) -> dict[str, str | int]:
    """What tells the data set of this path from others, and from itself after a change; the keys are for people too.

    Args:
        path: a file, a folder, a pattern or a URL, as for `open_source`.

    Returns:
        The path, the bytes, and when they were modified (UTC, to the nanosecond). Where files are many: of all of
        them together, with their number and the SHA-256 of every name, size and time.

    Raises:
        InputError: there is no such file, or it may not be looked at.
    """
    name, resolved = os.fspath(path), Path(path).resolve()
    if is_url(name):
        return _of_objects(name)
    if not is_pattern(name) and not resolved.is_dir():
        check_file(Path(name), "files")
        with one_line_errors(name):
            status = resolved.stat()
        return {"path": escaped(str(resolved)), "bytes": status.st_size, "modified": _moment(status.st_mtime_ns)}
    with one_line_errors(name):
        files = _files(name, resolved)
        names = [os.path.abspath(file) for file in sorted(files)]  # noqa: PTH100 - links keep their own names
        # A link that leads nowhere is looked at itself.
        seen = [(os.fsencode(file), Path(file).stat(follow_symlinks=os.path.exists(file))) for file in names]  # noqa: PTH110
    digest = hashlib.sha256()
    for file_name, status in seen:
        digest.update(b"%b\0%d\0%d\0" % (file_name, status.st_size, status.st_mtime_ns))
    return {
        "path": escaped(str(resolved)),
        "files": len(seen),
        "bytes": sum(status.st_size for _, status in seen),
        "modified": _moment(max((status.st_mtime_ns for _, status in seen), default=0)),
        DETAILS: digest.hexdigest(),
    }


def fingerprint_of_rows(source: Source | BatchSource, kept: KeptColumns | None = None) -> dict[str, str | int]:
    """The same of rows that have no path: their checksum; of rows that are read in order, only what they are called.

    Args:
        source: the rows.
        kept: columns of theirs which no model may take, and which count as well.

    Raises:
        InputError: they cannot be read.
    """
    if not isinstance(source, Source):
        return {"data": source.label}
    rows, digest = max(1, int(_LOOK_BYTES / max(1.0, source.row_bytes))), xxhash.xxh3_128()
    for start in range(0, source.rows, rows):
        stop = min(start + rows, source.rows)
        taken = odd_texts(rows_between(source, start, stop))
        tree = with_unfed(plain(taken), unfed_of(taken))
        if kept:
            tree = with_kept(tree, kept.of_chunk(start, stop))
        try:
            for part in codec.encode_parts(tree):
                digest.update(part)
        except PayloadError as error:
            raise InputError(f"{source.label}: rows {start}-{stop}: {error}") from error
    return {"data": source.label, "rows": source.rows, "XXH3 of the rows": digest.hexdigest()}


def _of_objects(url: str) -> dict[str, str | int]:
    """Of an object its ETag tells it from others, even where the time does not."""
    found = _objects(url)
    digest, size, modified = hashlib.sha256(), 0, 0
    for one in found:
        digest.update(f"{one}\0{one.stamp.size}\0{one.stamp.etag or one.stamp.mtime_ns}\0".encode())
        size, modified = size + one.stamp.size, max(modified, one.stamp.mtime_ns)
    told: dict[str, str | int] = {"path": redacted_url(url), "bytes": size, "modified": _moment(modified)}
    return told | ({"files": len(found)} if len(found) > 1 or is_many(url) else {}) | {DETAILS: digest.hexdigest()}


def _objects(url: str) -> Sequence[ObjectPath]:
    """Those of a data set; of a Zarr store on a web server, which lists nothing, that of its metadata alone."""
    if is_partitioned(url):
        return [one for one in find_partitioned(url) if isinstance(one, ObjectPath)]
    if not is_zarr(Path(url)) or is_pattern(url):
        return find_objects(url)
    folder = object_url(url.rstrip("/"))
    if folder.scheme in WEB:
        return find_objects(metadata_of(str(folder)).path)
    inside = ObjectUrl(folder.scheme, folder.bucket, folder.key, is_folder=True)
    if not (found := ObjectList(inside, list_objects(inside))):
        raise InputError(f"{folder}: no objects there; check the URL")
    return found.in_order()


def modified_since(path: str, moment: str) -> list[str]:
    """Those of many files that were modified after the moment that an earlier fingerprint has, as in their folder."""
    if is_url(path):
        return [one.name for one in _objects(path) if _moment(one.stamp.mtime_ns) > moment]
    root = path if Path(path).is_dir() else Path(path).parent
    found: list[tuple[Path, int]] = []
    with suppress(InputError), one_line_errors(path):  # a name that is no text is not found by how it is shown
        found = [(file, file.stat().st_mtime_ns) for file in sorted(_files(path, Path(path)))]
    return [escaped(os.path.relpath(file, root)) for file, modified in found if _moment(modified) > moment]


def _files(name: str, resolved: Path) -> list[Path]:
    if is_pattern(name):
        return find_files(name)
    if is_partitioned(resolved):
        return [Path(str(file)) for file in find_partitioned(resolved)]
    if is_zarr(resolved):
        return [file for file in resolved.rglob("*") if file.is_file()]
    return find_files(resolved)


def _moment(nanoseconds: int) -> str:
    seconds, rest = divmod(nanoseconds, 10**9)
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(seconds))}.{rest:09d}"
