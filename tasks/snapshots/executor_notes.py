"""Remembers, beside a model's snapshot, what has shown of an executor while it ran.

    child: batches too large for a machine's memory --> CACHE/KEY/batch-EXECUTOR-HOST.json --> workers of that host
    child: differs from the model's own graph       --> CACHE/KEY/differs-EXECUTOR.json    --> other children, at their
                                                                                               next job; later workers

The files go with their snapshot, which another TensorFlow has anew.
"""

from __future__ import annotations

import json
import logging
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from worker_config.decodable import decodable
from worker_config.files import write_whole
from worker_config.foreign_errors import UNDECODABLE

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExecutorNotes:
    """What is noted of an executor of the model in a snapshot's folder."""

    folder: Path
    executor: str

    def batch_rows(self, wanted: int) -> int:
        """The rows of one call that this machine bears, of those wanted."""
        with suppress(OSError, ArithmeticError, TypeError, ValueError, RecursionError):
            return max(1, min(wanted, int(json.loads(self._batch_path.read_text()))))
        return wanted

    def note_batch_rows(self, batch_rows: int) -> None:
        """Note that this many rows were not too many; without a folder, nothing."""
        with suppress(OSError):
            self._batch_path.write_text(json.dumps(batch_rows))

    def difference(self) -> str:
        """What is said of a difference; empty where none was seen."""
        try:
            return msgspec.json.decode(self._difference_path.read_bytes(), type=decodable(str))
        except OSError:
            return ""
        except UNDECODABLE:  # whatever damaged it, it was there
            return f"{self.executor} differed from the model's own graph in a job; the own graph is used"

    def note_difference(self, text: str) -> None:
        """Mark the executor, for good; `text` says so to people. The first mark stays."""
        path = self._difference_path
        if path.exists():
            return
        try:
            write_whole(path, msgspec.json.encode(text))
        except OSError as error:
            logger.warning("%s cannot be written (%s): only this job is told", path, error.strerror)

    @property
    def _batch_path(self) -> Path:
        return self.folder / f"batch-{self.executor}-{socket.gethostname()}.json"

    @property
    def _difference_path(self) -> Path:
        return self.folder / f"differs-{self.executor}.json"
