"""This module refuses what cannot become a job, before anything of it is sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from producer.sources import BatchSource, Source
from tasks.ragged import is_ragged
from tasks.records import ModelInfo
from tasks.signature import fit
from worker_config.errors import UsageError


def check_first_row(first_row: int, source: Source | BatchSource) -> None:
    """Make sure that a job can begin at this row.

    Raises:
        UsageError: it is no row of the data set, nor its end.
    """
    if first_row < 0 or (source.rows is not None and first_row > source.rows):
        most = "" if source.rows is None else f", and at most {source.rows}, the rows of {source.label}"
        raise UsageError(f"first_row is {first_row}; it must be at least 0{most}")


def check_fits(infos: Sequence[ModelInfo], rows: Any) -> None:
    """Ask with few rows before anything is sent; what a function gets, or of uneven shape, is left to the workers.

    Raises:
        InputError: a model does not take such rows.
    """
    if not is_ragged(rows):
        for info in infos:
            if not (info.preprocess or info.function):
                fit(rows, info.inputs, info.name)


def check_names(models: str | Sequence[str]) -> list[str]:
    """The models by name.

    Raises:
        UsageError: there is none, or one twice.
    """
    names = [models] if isinstance(models, str) else list(models)
    if not names or len(set(names)) < len(names):
        raise UsageError(f"models are {names}; name at least one, and each one once")
    return names
