"""Rows as a data set gives them: columns by name or place, and marks of those that no model can be given."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from tasks.protocol.codec import Array

# Rows as a model takes them: one array, arrays by input name, or a tuple in the order of the inputs.
Arrays: TypeAlias = Array | dict[str, Array] | tuple[Array, ...]

# What a batch has for one input: an array with the rows on its first axis or, where the rows of this batch differ in
# shape (images of many resolutions, sequences of many lengths), a list with one array for each row.
Column: TypeAlias = Array | list[Array]
Rows: TypeAlias = "Column | Mapping[str, Column] | tuple[Column, ...] | Marked"


@dataclass(frozen=True, slots=True)
class Marked:
    """Rows of which some cannot be fed to a model; something of the form of a row stands in their place.

    Attributes:
        rows: all of them.
        unfed: why not, by their position.
        nulls: of columns that have such, which rows are or hold null; these are among those that cannot be fed.
    """

    rows: Rows
    unfed: Mapping[int, str]
    nulls: Mapping[str, Array] = field(default_factory=dict)


# Closing it frees the files behind it.
Batches: TypeAlias = Generator[Rows, None, None]

# What a batch holds at most, about, where the format leaves the choice to us; a single row may be larger.
MAX_BATCH_BYTES = 16 * 2**20
