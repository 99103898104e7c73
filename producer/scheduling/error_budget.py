"""What becomes of rows that fail: they end the job, are left out, or have a filler; and how many.

"raise" | "skip" | "fill", a budget in rows or percent --> may the job go on?
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import get_args

from tasks.protocol.messages import OnError, OnNonfinite
from worker_config.errors import RowsFailedError, UsageError


@dataclass(frozen=True)
class ErrorBudget:
    """What a row that fails does to its job, and how many may; and whether one that is not finite fails.

    Attributes:
        on_error: "raise" ends the job; with "skip" the row is left out of the output, with "fill" a filler stands there
            (`tasks/protocol/dtypes.py`), and the row is marked.
        most_rows: that may fail; infinite where there is no such limit.
        most_share: of all rows that may fail.
        on_nonfinite: with "fail" a row with a NaN or an infinity, in what a model takes or gives, is one that fails;
            with "warn" the end of the job tells how many there were.
    """

    on_error: OnError = "raise"
    most_rows: float = math.inf
    most_share: float = 1.0
    on_nonfinite: OnNonfinite = "warn"

    @property
    def goes_on(self) -> bool:
        """Whether other rows are predicted when one fails."""
        return self.on_error != "raise"

    def check(self, failed: int, rows: int | None) -> None:
        """See whether so many failed rows of so many may be; percents wait until all rows are known.

        Raises:
            RowsFailedError: they are too many.
        """
        share_rows = math.inf if rows is None else self.most_share * rows
        if failed > self.most_rows:
            raise RowsFailedError(f"{failed} rows failed, at most {self.most_rows:.0f} may (max_failed)")
        if failed > share_rows:
            raise RowsFailedError(
                f"{failed} of {rows} rows failed, at most {100 * self.most_share:g} % of all may (max_failed)"
            )


def make_policy(on_error: str, max_failed: int | str | None, on_nonfinite: str = "warn") -> ErrorBudget:
    """Check what the caller gave.

    Args:
        on_error: "raise", "skip" or "fill".
        max_failed: rows, as a number; or a share of all rows, as "5%"; None for as many as there are, but for one.
        on_nonfinite: "warn", "fail" or "allow".

    Raises:
        UsageError: it is none of these.
    """
    if on_error not in get_args(OnError):
        raise UsageError(f"on_error is {on_error!r}; it is one of {', '.join(get_args(OnError))}")
    if on_nonfinite not in get_args(OnNonfinite):
        raise UsageError(f"on_nonfinite is {on_nonfinite!r}; it is one of {', '.join(get_args(OnNonfinite))}")
    policy = ErrorBudget(on_error=on_error, on_nonfinite=on_nonfinite)  # type: ignore[arg-type] # checked above
    if max_failed is None:
        return policy
    if on_error == "raise":
        raise UsageError('max_failed is for on_error "skip" or "fill"; else the first row that fails ends the job')
    try:
        if isinstance(max_failed, str) and max_failed.endswith("%"):
            share = float(max_failed[:-1]) / 100
            if 0 <= share <= 1:
                return replace(policy, most_share=share)
        elif int(max_failed) >= 0:
            return replace(policy, most_rows=int(max_failed))
    except ValueError:
        pass
    raise UsageError(f"max_failed is {max_failed!r}; it is a number of rows, or a share such as '5%'")
