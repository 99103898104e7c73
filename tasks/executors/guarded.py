"""An executor on the rows that it is trusted with; the others go to the model's own graph.

    arrays --executor--> outputs --rows beyond the limit, or with outputs that are not finite--> own graph --> outputs

What an executor was seen to agree on is in its trial (`tasks/preparation/input_limits.py`).
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from tasks.models.finite import EXACT, Array, any_mask, rows_beyond, rows_with_large_integers, rows_with_tiny
from tasks.protocol.signature import Arrays

# Of the rows: to run all of them by the executor, and these once more, would take longer than the own graph alone.
MANY = 0.25

Runner = Callable[[Arrays], Arrays]


class InputRange(msgspec.Struct, frozen=True):
    """What an executor may be given.

    Attributes:
        limit: the largest absolute value of a float; None where there is no limit, and no need to look.
        tiny: whether numbers very close to 0 are for it.
        integers: the largest absolute value of an integer. Those that float32 does not hold exactly are for none: what
            their sums come to depends on their order.
    """

    limit: float | None = None
    tiny: bool = True
    integers: int = EXACT

    def includes(self, other: InputRange) -> bool:
        """Whether it may be given what the other may."""
        is_wide = self.limit is None or (other.limit is not None and other.limit <= self.limit)
        return is_wide and (self.tiny or not other.tiny) and other.integers <= self.integers

    def beyond(self, arrays: Arrays) -> Array | None:
        """A mask of the rows that are not for it; None where all are."""
        beyond = None if self.limit is None else rows_beyond(arrays.values(), self.limit)
        tiny = None if self.tiny else rows_with_tiny(arrays.values())
        return any_mask((rows_with_large_integers(arrays.values(), self.integers), beyond, tiny))


def run_guarded(run: Runner, own_graph: Runner, arrays: Arrays, limits: InputRange) -> Arrays:
    """The outputs for all rows, by the executor where it is trusted and else by the model's own graph.

    Raises:
        Exception: what either raises.
    """
    beyond = limits.beyond(arrays)
    if beyond is not None and beyond.mean() > MANY:
        return own_graph(arrays)
    outputs = run(arrays)
    odd = rows_beyond(outputs.values()) if limits.limit is not None else None
    mask = any_mask((beyond, odd))
    if mask is None:
        return outputs
    exact = own_graph({name: array[mask] for name, array in arrays.items()})
    if any(exact[name].shape[1:] != array.shape[1:] for name, array in outputs.items()):
        return own_graph(arrays)  # a size inside the outputs depends on the rows
    for name, array in outputs.items():
        if not array.flags.writeable:
            outputs[name] = array = array.copy()
        array[mask] = exact[name]
    return outputs
