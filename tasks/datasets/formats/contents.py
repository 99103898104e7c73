"""Files that are a row each --> their bytes; one that cannot be read fails alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import BinaryIO

import numpy as np

from tasks.datasets.input_limit import input_limit
from tasks.datasets.marked import marked
from tasks.datasets.open_file import Opener
from tasks.datasets.rows import MAX_BATCH_BYTES, Batches
from tasks.protocol.split_ref import FileSpan
from tasks.storage.object_file import fetch_ranges
from worker_config.errors import InputError, StoreUnavailableError
from worker_config.object_urls import is_url

# Objects that are fetched while those before them are read.
_MOST_AHEAD, _MOST_AHEAD_BYTES = 16, 32 * 2**20


def contents_of(spans: Sequence[FileSpan], opener: Opener) -> Batches:
    """The bytes of these files, some MiB at a time.

    Raises:
        StoreUnavailableError: nobody can say whether an object can be read.
    """
    first, size = 0, 0
    contents, unfed = list[bytes](), dict[int, str]()
    for after, (span, read) in enumerate(_opened(spans, opener), 1):
        try:
            contents.append(read())
        except StoreUnavailableError:
            raise
        except InputError as error:
            unfed[len(contents)] = str(error)
            contents.append(b"")
        size += span.size
        if size >= MAX_BATCH_BYTES or after == len(spans):
            batch = np.full(after - first, b"", dtype=object)
            batch[:] = contents
            yield marked(batch, unfed)
            first, size, contents, unfed = after, 0, [], {}


def _opened(spans: Sequence[FileSpan], opener: Opener) -> Iterator[tuple[FileSpan, Callable[[], bytes]]]:
    """Each with what reads it; of objects those that follow are fetched by then."""
    waiting: deque[tuple[FileSpan, Callable[[], bytes]]] = deque()
    ahead = 0
    for span in spans:
        while waiting and (len(waiting) > _MOST_AHEAD or ahead + span.size > _MOST_AHEAD_BYTES):
            ahead -= waiting[0][0].size
            yield waiting.popleft()
        waiting.append((span, _reading(span, opener)))
        ahead += span.size
    yield from waiting


def _reading(span: FileSpan, opener: Opener) -> Callable[[], bytes]:
    opened: BinaryIO | None = None
    if is_url(span.path):
        with suppress(InputError):  # which is told when it is read
            input_limit().check(span.size, span.path, "the object")
            opened = opener.open(span)
            fetch_ranges(opened, [(0, span.size)])

    def read() -> bytes:
        input_limit().check(span.size, span.path, "the file")
        with opened or opener.open(span) as file:
            return file.read(span.size)

    return read
