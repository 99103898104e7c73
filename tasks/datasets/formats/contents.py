"""Files that are a row each --> their bytes; one that cannot be read fails alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tasks.datasets.input_limit import input_limit
from tasks.datasets.marked import marked
from tasks.datasets.open_file import Opener
from tasks.datasets.rows import MAX_BATCH_BYTES, Batches
from tasks.protocol.split_ref import FileSpan
from worker_config.errors import InputError


def contents_of(spans: Sequence[FileSpan], opener: Opener) -> Batches:
    """The bytes of these files, some MiB at a time."""
    first, size, limit = 0, 0, input_limit()
    for after, span in enumerate(spans, 1):
        size += span.size
        if size >= MAX_BATCH_BYTES or after == len(spans):
            contents, unfed = np.full(after - first, b"", dtype=object), {}
            for position, one in enumerate(spans[first:after]):
                try:
                    limit.check(one.size, one.path, "the file")
                    with opener.open(one) as file:
                        contents[position] = file.read()
                except InputError as error:
                    unfed[position] = str(error)
            yield marked(contents, unfed)
            first, size = after, 0
