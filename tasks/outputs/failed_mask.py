"""What marks rows of an output that failed, where a filler stands in their place: an array or column of booleans.

outputs --free_name--> "failed", or another name where an output or a model has that one already
.npy, which holds one array: a file of its own beside it, OUTPUT.failed.npy
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import count
from pathlib import Path

import msgspec
import numpy as np

from tasks.outputs.row_spec import RowSpec

MASK_NAME = "failed"
# After the name of an `.npy` output.
MASK_SUFFIX = f".{MASK_NAME}.npy"
MASK_SPEC = RowSpec(np.dtype(np.bool_), ())


class Fill(msgspec.Struct, frozen=True):
    """How an output tells rows that failed.

    Attributes:
        mark: the array or column that is true for them; of an `.npy` output, the name of the file beside it.
        values: by output, what stands in their place; "NaN" and "NaT" for what JSON cannot say.
    """

    mark: str
    values: Mapping[str, int | bool | str]


def free_name(taken: Iterable[str]) -> str:
    """What to call the mask, beside outputs and models of these names."""
    known = set(taken)
    candidates = (f"{MASK_NAME}_rows{'' if number == 1 else number}" for number in count(1))
    return MASK_NAME if MASK_NAME not in known else next(name for name in candidates if name not in known)


def mask_path(path: Path) -> Path:
    """Name the mask file of an `.npy` output."""
    return path.with_name(path.name + MASK_SUFFIX)
