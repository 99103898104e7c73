"""Remembers, beside a model's snapshot, that an executor was seen to differ from the model's own graph in a job.

    child that sees it --write--> CACHE/KEY/differs-EXECUTOR.json --> other children, at their next job
                                                                  --> later starts of workers with this cache

The file goes with its snapshot, which another TensorFlow has anew.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import msgspec

from worker_config.files import write_whole

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DifferenceMark:
    """The mark of an executor of the model in a snapshot's folder."""

    folder: Path
    executor: str

    def write(self, text: str) -> None:
        """Mark the executor, for good; `text` says so to people. The first mark stays."""
        if self._path.exists():
            return
        try:
            write_whole(self._path, msgspec.json.encode(text))
        except OSError as error:
            logger.warning("%s cannot be written (%s): only this job is told", self._path, error.strerror)

    def read(self) -> str:
        """What is said of the executor; empty where it has no mark."""
        try:
            data = self._path.read_bytes()
        except OSError:
            return ""
        try:
            return msgspec.json.decode(data, type=str)
        except msgspec.DecodeError:  # whatever damaged it, it was there
            return f"{self.executor} differed from the model's own graph in a job; the own graph is used"

    @property
    def _path(self) -> Path:
        return self.folder / f"differs-{self.executor}.json"
