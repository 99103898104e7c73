"""Joins outputs of some rows each to those of all, with a filler where a row has none.

outputs of a batch, of rows of one shape, or of a step --add--> their place among all rows --finish--> outputs
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tasks.protocol.codec import Key, leaves_of, tree_of
from tasks.protocol.dtypes import filler
from worker_config.errors import ModelError

Array = np.ndarray[Any, Any]

_TEXTS = "SUOT"


class OutputAssembler:
    """The outputs of `count` rows: an array, or a tree of arrays, rows first.

    Args:
        count: how many rows there are.
        model: its name, for errors; empty where several models' outputs come together.
    """

    def __init__(self, count: int, model: str = "") -> None:
        self._count = count
        self._prefix = f"model {model}: " if model else ""
        self._leaves: dict[Key, Array] = {}
        self._whole: Any = None
        self._missing = np.ones(count, bool)

    @property
    def rows(self) -> int:
        """How many rows have outputs."""
        return self._count - int(self._missing.sum())

    def add(self, start: int, stop: int, outputs: Any, kept: Array | None = None) -> None:
        """Put outputs to rows `[start, stop)`, or to those of them that a mask keeps.

        Raises:
            ModelError: they are not of the form of those before; the rows then count as missing.
        """
        if kept is not None:
            self.add_at(start + np.flatnonzero(kept), outputs)
        elif not self._leaves and (start, stop) == (0, self._count):
            self._whole, self._missing[:] = outputs, False
        else:
            self.add_at(slice(start, stop), outputs)

    def add_at(self, at: Any, outputs: Any) -> None:
        """The same for the rows of an index: a slice, or their numbers.

        Raises:
            ModelError: as `add`.
        """
        leaves = {key: np.asarray(leaf) for key, leaf in leaves_of(outputs)}
        if not self._leaves:
            self._leaves = {path: np.empty((self._count, *one.shape[1:]), one.dtype) for path, one in leaves.items()}
        if leaves.keys() != self._leaves.keys():
            names = [", ".join(repr("/".join(path)) for path in some) for some in (self._leaves, leaves)]
            raise ModelError(f"{self._prefix}outputs {names[0]} for some rows and {names[1]} for others")
        for path, array in leaves.items():
            self._leaves[path] = self._place(self._leaves[path], at, array, "/".join(path))
        self._missing[at] = False

    def forget(self, rows: Sequence[int]) -> None:
        """Count rows as missing, whatever was put there."""
        if self._whole is not None:
            self._leaves = {key: np.array(leaf) for key, leaf in leaves_of(self._whole)}
            self._whole = None
        self._missing[rows] = True

    def finish(self) -> Any:
        """The outputs of all rows, with a filler for those that are missing; some have been added."""
        if self._whole is not None:
            return self._whole
        if self._missing.any():
            for array in self._leaves.values():
                array[self._missing] = filler(array.dtype, next(array[~self._missing].flat, None))
        return tree_of(self._leaves)

    def _place(self, whole: Array, at: Any, rows: Array, name: str) -> Array:
        what = f"{self._prefix}output {name!r}" if name else f"{self._prefix}the output"
        if rows.shape[1:] != whole.shape[1:]:
            raise ModelError(
                f"{what} has rows of shape {whole.shape[1:]} and of shape {rows.shape[1:]}; "
                "outputs must be of one shape"
            )
        try:
            if (rows.dtype.kind in _TEXTS) != (whole.dtype.kind in _TEXTS):
                raise TypeError
            if rows.dtype != whole.dtype:  # strings have the length of the longest
                whole = whole.astype(np.promote_types(whole.dtype, rows.dtype))
            whole[at] = rows
        except (TypeError, ValueError):
            raise ModelError(
                f"{what} is {whole.dtype} for some rows and {rows.dtype} for others, which do not go together"
            ) from None
        return whole
