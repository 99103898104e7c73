"""Refuses what cannot become a job, before anything of it is sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from producer.sources import BatchSource, Source
from tasks.protocol.codec import columns_of, is_ragged, tree_like
from tasks.protocol.made_inputs import with_made
from tasks.protocol.records import ModelInfo
from tasks.protocol.signature import fit, named
from worker_config.errors import UsageError

# A model's name, or several.
ModelNames: TypeAlias = str | Sequence[str]


def check_first_row(first_row: int, source: Source | BatchSource) -> None:
    """Make sure that a job can begin at this row.

    Raises:
        UsageError: it is no row of the data set, nor its end.
    """
    if first_row < 0 or (source.rows is not None and first_row > source.rows):
        most = "" if source.rows is None else f", and at most {source.rows}, the rows of {source.label}"
        raise UsageError(f"first_row is {first_row}; it must be at least 0{most}")


def check_fits(infos: Sequence[ModelInfo], rows: Any) -> None:
    """Ask with few rows before anything is sent; what a function gets is left to the workers.

    Of rows of uneven shape, which fail one by one, only the names are asked, or the place of each in a tuple. Values
    are not looked at: a row with one that an input cannot hold fails as any other does.

    Raises:
        InputError: a model does not take such rows.
    """
    given = rows
    for info in infos:
        if not all(map(len, columns_of(given).values())) and info.columns:
            continue  # no rows have no columns that inputs could be made of
        is_own = not (info.preprocess or info.function)
        own = [spec.name for spec in info.inputs] if is_own else ()
        rows = with_made(given, info.columns, f"model {info.name}", own)
        if not is_own:
            continue
        if not is_ragged(rows):
            fit(rows, info.inputs, info.name, ordered=info.ordered, values=False)
        elif all(map(len, columns_of(rows).values())):
            first = {name: np.asarray(column[0])[np.newaxis] for name, column in columns_of(rows).items()}
            named(tree_like(rows, first), info.inputs, info.name, ordered=info.ordered)


def check_names(models: ModelNames) -> list[str]:
    """The models by name.

    Raises:
        UsageError: there is none, or one twice.
    """
    names = [models] if isinstance(models, str) else list(models)
    if not names or len(set(names)) < len(names):
        raise UsageError(f"models are {names}; name at least one, and each one once")
    return names
