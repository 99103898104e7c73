"""What one row of an output is, and what people call the output."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tasks.protocol.codec import Key


class RowSpec(NamedTuple):
    """What one row of an array is."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype} {self.shape}"


def output_name(key: Key) -> str:
    """Name an output for people."""
    return f"output {'/'.join(key)!r}" if key else "the output"
