"""Keeps what TensorFlow says of itself at its start off the terminal, and lets its errors through.

Its C++ half writes to file descriptor 2, in part before it has read `TF_CPP_MIN_LOG_LEVEL`. So around what is known to
talk, the descriptor goes to a file, from which all but the chatter is written to where it was meant to go.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
# Notes and warnings of Abseil's log, what it says of itself, and notes of LiteRT, also that there is no other hardware.
_CHATTER = re.compile(
    rb"WARNING: All log messages before absl::InitializeLog|[IW]\d{4} [\d:.]+ +\d+ |INFO: |WARNING: \[npu_registry"
)
# That there is no GPU, which is nobody's fault.
_NO_GPU = re.compile(rb"E\d{4} .*\bcuInit\b")


def settle_chatter() -> None:
    """From now on TensorFlow logs errors alone, here and in processes that begin here, unless someone wants more."""
    os.environ.setdefault(_LEVEL, "2")


@contextmanager
def hushed(gpu_is_missing: bool = False) -> Iterator[None]:
    """Leave out the chatter of what runs in this block, unless `TF_CPP_MIN_LOG_LEVEL` asks for it."""
    settle_chatter()
    if os.environ[_LEVEL] in ("0", "1"):
        yield
        return
    sys.stderr.flush()
    meant = os.dup(2)
    try:
        with tempfile.TemporaryFile() as said:
            os.dup2(said.fileno(), 2)
            try:
                yield
            finally:
                sys.stderr.flush()
                os.dup2(meant, 2)
                said.seek(0)
                if kept := b"".join(line for line in said if not is_chatter(line, gpu_is_missing)):
                    os.write(2, kept)
    finally:
        os.close(meant)


def is_chatter(line: bytes, gpu_is_missing: bool = False) -> bool:
    """Whether nobody needs this line."""
    return bool(_CHATTER.match(line) or (gpu_is_missing and _NO_GPU.match(line)))
