"""Remembers, beside a model's snapshot, that an executor was seen to differ from the model's own graph in a job.

    child that sees it --mark--> CACHE/KEY/differs-EXECUTOR.json --> other children, at their next job
                                                                 --> later starts of workers with this cache

The file goes with its snapshot, which another TensorFlow has anew.
"""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec

from worker_config.files import write_whole

logger = logging.getLogger(__name__)


def remember(folder: Path, executor: str, text: str) -> None:
    """Mark the executor, for good; `text` says so to people. The first mark stays."""
    path = _file(folder, executor)
    if path.exists():
        return
    try:
        write_whole(path, msgspec.json.encode(text))
    except OSError as error:
        logger.warning("%s cannot be written (%s): only this job is told", path, error.strerror)


def remembered(folder: Path, executor: str) -> str:
    """What is said of the executor; empty where it has no mark."""
    try:
        data = _file(folder, executor).read_bytes()
    except OSError:
        return ""
    try:
        return msgspec.json.decode(data, type=str)
    except msgspec.DecodeError:  # whatever damaged it, it was there
        return f"{executor} differed from the model's own graph in a job; the own graph is used"


def _file(folder: Path, executor: str) -> Path:
    return folder / f"differs-{executor}.json"
