"""A `tf.data.Dataset` is read through its own methods; TensorFlow itself is not imported."""

from __future__ import annotations

from typing import Any

from producer.rows.columns import columns_of, place
from producer.rows.source import BatchReader
from producer.sources.iterables import from_batches, from_rows
from worker_config.errors import InputError


def is_tf_dataset(data: object) -> bool:
    """Whether this has the methods of a `tf.data.Dataset`."""
    return hasattr(data, "element_spec") and hasattr(data, "as_numpy_iterator")


def from_tf_dataset(dataset: Any, batched: bool | None = None) -> BatchReader:
    """Make a data set of a `tf.data.Dataset` of tensors, tuples of tensors or dicts of tensors.

    Args:
        dataset: the data set.
        batched: whether an element is a batch, and not a row; if left out, it is a batch where the first dimension
            of every tensor is unknown, as after `.batch(n)`.

    Raises:
        InputError: elements are nested, ragged or sparse, or it cannot be told whether they are batches.
    """
    label = "tf.data.Dataset"
    specs = columns_of(dataset.element_spec, label)
    for name, spec in specs.items():
        if type(spec).__name__ != "TensorSpec":
            raise InputError(
                f"{place(label, name)}: elements are {type(spec).__name__.removesuffix('Spec')}, not plain tensors; "
                "map them to dense tensors first, with .to_tensor() or tf.sparse.to_dense"
            )
    if batched is None:
        batched = all(_is_open(spec, place(label, name)) for name, spec in specs.items())
    if batched:
        return from_batches(_Elements(dataset), label)
    count = int(dataset.cardinality())
    reader = from_rows(_Elements(dataset), label=label)
    reader.rows = count if count >= 0 else None  # negative: infinite, or unknown
    return reader


def _is_open(spec: Any, where: str) -> bool:
    """Whether the first dimension is left open."""
    if spec.shape.rank is None:
        raise InputError(f"{where}: has tensors of unknown rank; say batched=True, or False if elements are rows")
    return spec.shape.rank > 0 and spec.shape[0] is None


class _Elements:
    """The elements as NumPy arrays, from the first one on each time."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def __iter__(self) -> Any:
        return self._dataset.as_numpy_iterator()
