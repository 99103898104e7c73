"""Remembers batches that were too large for a machine's memory, beside the model's snapshot."""

from __future__ import annotations

import json
import socket
from contextlib import suppress
from pathlib import Path


def remembered(folder: Path, executor: str, batch_rows: int) -> int:
    """The rows of one call that this machine bears."""
    with suppress(OSError, ValueError, TypeError):
        return max(1, min(batch_rows, int(json.loads(_file(folder, executor).read_text()))))
    return batch_rows


def remember(folder: Path, executor: str, batch_rows: int) -> None:
    """Note that this many rows were not too many; without a folder, nothing."""
    with suppress(OSError):
        _file(folder, executor).write_text(json.dumps(batch_rows))


def _file(folder: Path, executor: str) -> Path:
    return folder / f"batch-{executor}-{socket.gethostname()}.json"
