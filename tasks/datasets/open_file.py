"""A span's file or object --the one that was meant?--> a stream of its bytes; where all that splits need is opened.

A producer opens what its caller names; a worker what lies under its roots alone.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from tasks.datasets.read_errors import unreadable
from tasks.protocol.split_ref import FileSpan
from tasks.storage.object_file import open_object
from tasks.storage.objects import ObjectStamp, list_folder, read_now
from tasks.transport.file_slices import open_beneath
from worker_config.errors import InputError
from worker_config.files import Root, escaped, is_under, split_root
from worker_config.object_urls import WEB, ObjectUrl, is_url, object_url, redacted_url


class Opener:
    """Opens the files and objects of splits.

    Args:
        roots: the folders and URLs under which they must lie, of which folders are looked at step by step, so that no
            link leads out of them; anywhere, for who has been told their names by a person, where it is None.
    """

    def __init__(self, roots: Sequence[Root] | None = None) -> None:
        self._roots = roots

    def open(self, span: FileSpan) -> BinaryIO:
        """The file of a span.

        Raises:
            InputError: it is not there, may not be read, lies under no root, or has changed since the data set was
                opened; of an object, reads raise it (ObjectError).
        """
        if is_url(span.path):
            return open_object(self._url(span.path), ObjectStamp(span.size, span.mtime_ns, span.etag))
        try:
            descriptor = self._open(span.path)
        except FileNotFoundError:
            raise InputError(f"{escaped(span.path)}: no such file; check the path") from None
        except OSError as error:
            raise unreadable(escaped(span.path), error) from None
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or (status.st_size, status.st_mtime_ns) != (span.size, span.mtime_ns):
            os.close(descriptor)
            how = "has been cut short" if status.st_size < span.size else "has changed"
            raise InputError(
                f"{escaped(span.path)}: {how} since it was opened, or is another file here; "
                "leave the file as it is while a job reads it"
            )
        return os.fdopen(descriptor, "rb")

    def read_beside(self, span: FileSpan, name: str, start: int = 0, stop: int | None = None) -> bytes | None:
        """The bytes `[start, stop)` of another file of the span's folder, or the last ones, where `start` is negative.

        None where there is no such file.

        Raises:
            InputError: it may not be read, or lies under no root.
        """
        if is_url(span.path):
            return read_now(self._beside(span, name), start, stop)
        path = str(Path(span.path).parent / name)
        try:
            with self._regular(path) as file:
                start = max(0, file.seek(0, os.SEEK_END) + start) if start < 0 else start
                file.seek(start)
                return file.read(-1 if stop is None else max(0, stop - start))
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return None
        except OSError as error:
            raise unreadable(path, error) from None

    def names_beside(self, span: FileSpan, folder: str) -> list[str]:
        """What a folder beside a span's object has in it.

        Raises:
            InputError: it cannot be listed, as nothing can of web servers.
        """
        url = self._beside(span, folder)
        if url.scheme in WEB:
            raise InputError(f"{url}: web servers do not list what they have; copy the folder to one of this machine")
        return list_folder(ObjectUrl(url.scheme, url.bucket, url.key, is_folder=True))

    def _beside(self, span: FileSpan, name: str) -> ObjectUrl:
        url = object_url(span.path)
        key = "/".join(part for part in (url.key.rpartition("/")[0], name.strip("/")) if part)
        return self._url(str(ObjectUrl(url.scheme, url.bucket, key)))

    def _url(self, text: str) -> ObjectUrl:
        """The URL of what may be opened."""
        if self._roots is not None and not is_under(text, self._roots):
            raise InputError(f"{redacted_url(text)} is not under a URL of CELERIAC_DATA_ROOTS here")
        return object_url(text)

    def _regular(self, path: str) -> BinaryIO:
        descriptor = self._open(path)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise IsADirectoryError
        return os.fdopen(descriptor, "rb")

    def _open(self, path: str) -> int:
        if self._roots is None:
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        place = split_root(path, self._roots)
        if place is None:
            raise InputError(f"{path} is not under a folder of CELERIAC_DATA_ROOTS here")
        return open_beneath(*place)
