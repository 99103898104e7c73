"""What models made of some rows: outputs, a mask of the rows that they are of, and which of these are not finite.

Made of each model --together--> Made of all, by model name --add_to--> Joined of the chunk
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tasks.models.finite import any_mask
from tasks.models.nonfinite import NotFinite
from tasks.models.output_assembler import Array, OutputAssembler
from tasks.protocol.codec import leaves_of, tree_of


@dataclass(frozen=True)
class ModelOutputs:
    """What a model made of some rows; with a mask of those not left out on purpose, None where that is all.

    `lost` masks those of the rows kept that fail although they have outputs.
    """

    outputs: Any
    kept: Array | None
    nonfinite: NotFinite
    lost: Array | None = None


def together(made: Mapping[str, ModelOutputs], rows: int) -> ModelOutputs:
    """The outputs of all models by name, for rows that none has left out."""
    nonfinite = merged(rows, [one.nonfinite for one in made.values()])
    masks = [one.kept for one in made.values() if one.kept is not None]
    lost = any_mask(one.lost for one in made.values())
    if not masks:
        return ModelOutputs({name: one.outputs for name, one in made.items()}, None, nonfinite, lost)
    kept = np.logical_and.reduce(masks)
    if not kept.any():
        return ModelOutputs(None, kept, nonfinite)
    outputs = {name: _only(one.outputs, kept if one.kept is None else kept[one.kept]) for name, one in made.items()}
    return ModelOutputs(outputs, kept, nonfinite, None if lost is None else lost & kept)


def merged(rows: int, found: Iterable[NotFinite]) -> NotFinite:
    """What was found of any model."""
    whole = NotFinite(rows)
    for one in found:
        whole.add(one)
    return whole


def _only(outputs: Any, mask: Array) -> Any:
    return tree_of({key: array[mask] for key, array in leaves_of(outputs)})


def add_to(joined: OutputAssembler, dropped: Array, first: int, start: int, stop: int, made: ModelOutputs) -> None:
    """Put what was made of rows `[start, stop)` to the outputs of a chunk that begins at `first`."""
    start, stop = start - first, stop - first
    outputs, kept = made.outputs, made.kept
    if made.lost is not None:
        stays = ~made.lost
        outputs, kept = _only(outputs, stays if kept is None else stays[kept]), stays if kept is None else kept & stays
    if kept is None or kept.any():
        joined.add(start, stop, outputs, kept)
    if made.kept is not None:
        dropped[start:stop] |= ~made.kept
