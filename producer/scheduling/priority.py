"""Priority classes of jobs, and their weights: what a job has of its queues, against the others there.

"interactive", "normal", "bulk", or a number --> weight --> job's hash --> `share_queue.lua`, for all jobs of a queue
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from worker_config.errors import UsageError

Priority: TypeAlias = Literal["interactive", "normal", "bulk"] | float

# Each has four times the share of the next. More would change little: a bulk job has a tenth in any case.
WEIGHTS = {"interactive": 16.0, "normal": 4.0, "bulk": 1.0}
# Between these two a number still means something.
LEAST_WEIGHT, MOST_WEIGHT = 0.01, 1000.0


def weight_of(priority: Priority | str) -> float:
    """The weight of a class, or of a number, which may be text.

    Raises:
        UsageError: it is neither.
    """
    if isinstance(priority, str) and priority in WEIGHTS:
        return WEIGHTS[priority]
    try:
        weight = float("" if isinstance(priority, bool) else priority)
    except (TypeError, ValueError):
        raise UsageError(f"priority is {priority!r}; it is one of {', '.join(WEIGHTS)}, or a number") from None
    if not LEAST_WEIGHT <= weight <= MOST_WEIGHT:
        raise UsageError(
            f"priority is {priority}; as a number it is between {LEAST_WEIGHT:g} and {MOST_WEIGHT:g} "
            f"({', '.join(f'{name} is {known:g}' for name, known in WEIGHTS.items())})"
        )
    return weight


def priority_name(weight: float) -> str:
    """The class of a weight; else the number."""
    return next((name for name, known in WEIGHTS.items() if known == weight), f"{weight:g}")
