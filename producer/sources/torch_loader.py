"""A `DataLoader` of PyTorch is iterated over, batch after batch; PyTorch itself is not imported."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from producer.rows.readers import BatchReader
from producer.sources.iterables import Again, from_batches, from_rows
from worker_config.errors import UsageError

logger: logging.Logger = logging.getLogger(__name__)

_ASK = "if these are (x, y), give producer.sources.from_loader(data, features=0), which takes x"
# Which give rows in the same order each time.
_IN_ORDER = ("SequentialSampler", "_InfiniteConstantSampler")


def is_loader(data: object) -> bool:
    """Whether this has the attributes of a `torch.utils.data.DataLoader`."""
    return all(hasattr(data, name) for name in ("dataset", "batch_sampler", "collate_fn", "drop_last"))


def from_loader(loader: Any, features: int | str | None = None) -> BatchReader:
    """Make a data set of the batches of a `DataLoader`: tensors, tuples or dicts of tensors.

    Outputs come in the order in which it gives the rows. A line of the log says where it gives another one each time,
    as with `shuffle=True`, or leaves rows out, as with `drop_last=True`.

    Args:
        loader: the loader; one of `batch_size=None` gives rows.
        features: which part of a batch is the rows, where others are labels: 0 of (x, y); all parts, as the inputs of a
            model, if left out.

    Raises:
        InputError: from the iterator, where a batch is none of these, or did not come.
        UsageError: from the iterator, where batches have no such part.
    """
    label = type(loader).__name__
    batches = Again(lambda: (_part(batch, features, label) for batch in loader))
    is_batched = loader.batch_sampler is not None
    reader = from_batches(batches, label) if is_batched else from_rows(batches, label=label)
    reader.hint = "" if features is not None else f"its batches may be tuples; {_ASK}"
    by_batch = type(loader.batch_sampler).__name__ not in ("BatchSampler", "NoneType")  # then `sampler` is not used
    if by_batch or type(loader.sampler).__name__ not in _IN_ORDER:
        reader.once = True
        logger.warning("%s: gives its rows in an order of its own; outputs come in that one", label)
    if loader.drop_last and is_batched:
        logger.warning("%s: leaves out the last rows, as drop_last=True says; set it to False to predict all", label)
    return reader


def _part(batch: Any, features: int | str | None, label: str) -> Any:
    if features is not None:
        try:
            return batch[features]
        except (LookupError, TypeError) as error:
            parts = list(batch) if isinstance(batch, Mapping) else f"{len(batch)} parts"
            raise UsageError(f"{label}: features is {features!r}, a batch has {parts}") from error
    if not isinstance(batch, list | tuple):
        return batch
    return batch[0] if len(batch) == 1 else tuple(batch)
