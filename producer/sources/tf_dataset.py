"""A `tf.data.Dataset` is read through its own methods; TensorFlow itself is not imported."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from producer.rows.readers import BatchReader
from producer.sources.iterables import Again, from_batches, from_rows
from tasks.datasets.columns import columns_of, place
from worker_config.errors import InputError, UsageError

logger: logging.Logger = logging.getLogger(__name__)

_ASK = "if these are (x, y), give producer.sources.from_tf_dataset(data, features=0), which takes x"
# Through these, batches stay what they are; others are not looked through.
_KEEP_BATCHES = (
    *("PrefetchDataset", "OptionsDataset", "CacheDataset", "MapDataset", "ParallelMapDataset", "ShuffleDataset"),
)


def is_tf_dataset(data: object) -> bool:
    """Whether this has the methods of a `tf.data.Dataset`."""
    return hasattr(data, "element_spec") and hasattr(data, "as_numpy_iterator")


def from_tf_dataset(dataset: Any, batched: bool | None = None, features: int | str | None = None) -> BatchReader:
    """Make a data set of a `tf.data.Dataset` of tensors, tuples of tensors or dicts of tensors.

    Args:
        dataset: the data set. Where `.batch(n, drop_remainder=True)` has left out rows, a line of the log says so.
        batched: whether an element is a batch, and not a row; if left out, it is a batch where the first dimension
            of every tensor is unknown, as after `.batch(n)`, or is that of batches with `drop_remainder`.
        features: which part of an element is the rows, where others are labels or weights: 0 of (x, y); all parts,
            as the inputs of a model, if left out.

    Raises:
        InputError: elements are nested, ragged or sparse, or it cannot be told whether they are batches.
        UsageError: elements have no such part.
    """
    label, spec = "tf.data.Dataset", dataset.element_spec
    hint = ""
    if features is not None:
        spec = _part(spec, features, label)
        label = f"{label} (part {features!r} of each element)"
    elif isinstance(spec, tuple):
        hint = f"its elements are tuples of {len(spec)}; {_ASK}"
    specs = columns_of(spec, label)
    for name, one in specs.items():
        if type(one).__name__ != "TensorSpec":
            remedy = "map them to dense tensors first, with .to_tensor() or tf.sparse.to_dense"
            raise InputError(
                f"{place(label, name)}: elements are {type(one).__name__.removesuffix('Spec')}, not plain tensors; "
                f"{hint or remedy}"
            )
    if batched is None:
        batched = all(_is_open(one, place(label, name)) for name, one in specs.items())
        if not batched and (size := _size_of_all(specs)):
            batched = size == _batch_rows(dataset, label)
            if not batched:
                hint = "; ".join(filter(None, [hint, f"if these are batches of {size}, say batched=True"]))

    def begin() -> Iterator[Any]:
        elements: Iterator[Any] = dataset.as_numpy_iterator()
        return elements if features is None else (element[features] for element in elements)

    elements = Again(begin)
    if batched:
        reader = from_batches(elements, label)
    else:
        count = int(dataset.cardinality())
        reader = from_rows(elements, label=label)
        reader.rows = count if count >= 0 else None  # negative: infinite, or unknown
    reader.hint = hint
    return reader


def _part(spec: Any, features: int | str, label: str) -> Any:
    try:
        return spec[features]
    except (LookupError, TypeError) as error:
        parts = list(spec) if isinstance(spec, dict) else list(range(len(spec))) if isinstance(spec, tuple) else "one"
        raise UsageError(f"{label}: features is {features!r}, its elements have the parts {parts}") from error


def _is_open(spec: Any, where: str) -> bool:
    """Whether the first dimension is left open."""
    if spec.shape.rank is None:
        raise InputError(f"{where}: has tensors of unknown rank; say batched=True, or False if elements are rows")
    return spec.shape.rank > 0 and spec.shape[0] is None


def _size_of_all(specs: dict[str, Any]) -> int:
    """The first dimension of all tensors; 0 where they have none in common."""
    sizes = {spec.shape[0] if spec.shape.rank else None for spec in specs.values()}
    size = sizes.pop()
    return 0 if sizes or size is None else int(size)


def _batch_rows(dataset: Any, label: str) -> int:
    """Of batches with `drop_remainder`, their rows, and a word on those that are left out; 0 where there are none.

    What a data set was made of only its private attributes tell: where these have other names, nothing is seen.
    """
    while type(dataset).__name__.strip("_") in _KEEP_BATCHES:
        dataset = getattr(dataset, "_input_dataset", None)
    if type(dataset).__name__.strip("_") not in ("BatchDataset", "ParallelBatchDataset"):
        return 0
    size, before = getattr(dataset, "_batch_size", None), getattr(dataset, "_input_dataset", None)
    if size is None or before is None:
        return 0
    size, count = int(size), int(before.cardinality())
    lost = f"its last {count % size} rows are" if count >= 0 else f"up to {size - 1} rows at its end may be"
    if count % size or count < 0:
        logger.warning("%s: %s left out by drop_remainder=True; batch it without that to predict all", label, lost)
    return size
