"""What a batch looks like: for each array its dtype and shape, with None for sizes that vary.

first outputs of a step, or element_spec --> BatchSchema <--check-- every part, every batch
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from producer.rows.part import Part, flatten
from tasks.outputs.row_spec import output_name
from tasks.protocol.codec import Array, Key, leaves_of, tree_of
from worker_config.errors import MessageError, UsageError


@dataclass(frozen=True)
class ArraySpec:
    """One array of a batch.

    Attributes:
        shape: with the batch's axis first; None for a size that varies.
        dtype: of NumPy; object for text.
    """

    shape: tuple[int | None, ...]
    dtype: np.dtype[Any]

    def __str__(self) -> str:
        return f"{self.dtype} {self.shape[1:]}"


Specs = Mapping[Key, ArraySpec]


def inferred(arrays: Mapping[Key, Array]) -> Specs:
    """What these arrays say of all others: any number of rows of the same shape."""
    return {key: ArraySpec((None, *array.shape[1:]), array.dtype) for key, array in arrays.items()}


def declared(spec: Any) -> Specs:
    """What the caller said: a tree of anything that has `shape` and `dtype`, as `tf.TensorSpec`, an array, `ArraySpec`.

    Raises:
        UsageError: it is no such tree, or has no axis for the rows.
    """
    specs: dict[Key, ArraySpec] = {}
    for key, leaf in leaves_of(spec):
        try:
            dtype = np.dtype(getattr(leaf.dtype, "as_numpy_dtype", leaf.dtype))
            shape = tuple(None if size is None else int(size) for size in leaf.shape)
        except (AttributeError, TypeError, ValueError) as error:
            raise UsageError(
                f"element_spec: {output_name(key)} is {leaf!r}, which has no dtype and shape ({error}); give a tree of "
                "tf.TensorSpec or of producer.ArraySpec, with the batch's axis first"
            ) from None
        if not shape:
            raise UsageError(f"element_spec: {output_name(key)} has no axis for the rows; its first one is the batch's")
        specs[key] = ArraySpec(shape, dtype if dtype.kind not in "US" else np.dtype(object))
    return specs


class BatchSchema:
    """What batches look like, once that is known; shared by all passes of a loader."""

    def __init__(self, element_spec: Any = None) -> None:
        self.specs = None if element_spec is None else declared(element_spec)

    @property
    def tree(self) -> Any:
        """The specs in the form of a batch; they must be known."""
        return tree_of(self.specs or {})

    def check(self, part: Part, where: str) -> Mapping[Key, Array]:
        """A part's arrays by key: the first ones that have rows are learnt from, all others are held against these.

        Raises:
            MessageError: they are of another form, but for the number of rows; `where` names step and rows.
        """
        arrays = flatten(part)
        if part.rows:
            self.specs = inferred(arrays) if self.specs is None else self.specs
            check(self.specs, arrays, where)
        return arrays

    def check_rows(self, rows: int, where: str) -> None:
        """Raise MessageError where the caller's element_spec says another number of rows for a batch."""
        for key, spec in (self.specs or {}).items():
            if spec.shape[0] not in (None, rows):
                raise MessageError(
                    f"{where}: a batch has {rows} rows, element_spec says {spec.shape[0]} for {output_name(key)}; "
                    "leave the batch's axis None, since the last batch of an epoch may be shorter"
                )


def check(specs: Specs, arrays: Mapping[Key, Array], where: str) -> None:
    """Raise MessageError unless arrays are as the specs say, but for the number of rows."""
    if set(map(_exact, specs)) != set(map(_exact, arrays)):
        raise _wrong(where, f"has {_names(arrays)}", f"had {_names(specs)}")
    for key, spec in specs.items():
        array = arrays[key]
        fits = len(array.shape) == len(spec.shape) and all(
            expected in (None, size) for expected, size in zip(spec.shape[1:], array.shape[1:], strict=True)
        )
        if array.dtype != spec.dtype or not fits:
            actual = ArraySpec(array.shape, array.dtype)
            raise _wrong(where, f"{output_name(key)} has rows of {actual}", f"had {spec}")


def _exact(key: Key) -> tuple[tuple[type, str], ...]:
    """A place in a tuple is not a name in a dict."""
    return tuple((type(name), name) for name in key)


def _names(keys: Iterable[Key]) -> str:
    return "the outputs " + ", ".join("/".join(key) or "(one array)" for key in keys)


def _wrong(where: str, actual: str, expected: str) -> MessageError:
    return MessageError(
        f"{where}: {actual}, earlier ones, or element_spec, {expected}; let the step return one form for all rows, "
        "or give element_spec with None for sizes that vary"
    )
