"""What all kinds of model files have in common: rows, weights, and how a kind is described."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.formats import Case
from worker_config.manifest import ModelEntry

Make = Callable[[Path], Case]
_RNG = np.random.default_rng(7)
WEIGHTS = _RNG.random((4, 3), np.float32)
PIXELS = _RNG.random((23, 4), np.float32)
IMAGES = _RNG.integers(0, 256, (23, 8, 8, 3)).astype(np.uint8)
IDS = _RNG.integers(0, 9, (23, 5))
STEPS = _RNG.random((23, 6, 4), np.float32)
WORDS = np.array([[b"red", b"green", b"blue"][number % 3] for number in range(23)], object)


@dataclass(frozen=True)
class Kind:
    """A kind of model file.

    Attributes:
        name: what it is, for people.
        form: what its path is.
        make: writes one, and says what its own library gives for rows.
        refused: of one that is refused: what is to be done, as a pattern of the line that says so.
        needs: a package that writes it; where it is not installed, nothing can be shown.
    """

    name: str
    form: str
    make: Make
    refused: str = ""
    needs: str = ""


def refused(entry: ModelEntry) -> Case:
    return Case(entry, {}, {})


def quietly(function: Callable[[], Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function()
