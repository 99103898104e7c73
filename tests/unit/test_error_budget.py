"""What a row that fails does to its job, and how many may."""

from __future__ import annotations

import math

import pytest

from producer.scheduling.error_budget import ErrorBudget, make_policy
from worker_config.errors import RowsFailedError, UsageError


def test_by_default_the_first_failure_ends_the_job() -> None:
    assert not make_policy("raise", None).goes_on
    assert make_policy("skip", None).goes_on
    assert make_policy("fill", None) == ErrorBudget("fill", math.inf, 1.0)


@pytest.mark.parametrize(
    ("max_failed", "failed", "rows", "ends"),
    [
        (None, 99, 100, False),
        (0, 0, 100, False),
        (0, 1, 100, True),
        (7, 7, 100, False),
        ("7", 8, 100, True),
        ("5%", 5, 100, False),
        ("5%", 6, 100, True),
        ("0.1%", 1, 1_000, False),
        ("0.1%", 2, 1_000, True),
        ("5%", 99, None, False),
        (3, 4, None, True),
    ],
)
def test_budgets(max_failed: int | str | None, failed: int, rows: int | None, ends: bool) -> None:
    policy = make_policy("skip", max_failed)
    if not ends:
        policy.check(failed, rows)
        return
    with pytest.raises(RowsFailedError, match=f"^{failed} .*rows failed, at most .* may"):
        policy.check(failed, rows)


@pytest.mark.parametrize("max_failed", [-1, "-1", "many", "", "%", "101%", "-1%", "1.5"])
def test_budgets_that_are_none(max_failed: int | str) -> None:
    with pytest.raises(UsageError, match=r"max_failed is .*; it is a number of rows, or a share such as '5%'"):
        make_policy("fill", max_failed)


def test_words_that_are_no_policy() -> None:
    with pytest.raises(UsageError, match="on_error is 'ignore'; it is one of raise, skip, fill"):
        make_policy("ignore", None)


def test_a_budget_needs_a_policy_that_goes_on() -> None:
    with pytest.raises(UsageError, match="max_failed is for on_error"):
        make_policy("raise", 3)


def test_what_rows_that_are_not_finite_do_is_one_of_three() -> None:
    assert make_policy("raise", None).on_nonfinite == "warn"
    assert make_policy("skip", "5%", "fail") == ErrorBudget("skip", most_share=0.05, on_nonfinite="fail")
    with pytest.raises(UsageError, match="on_nonfinite is 'weep'; it is one of warn, fail, allow"):
        make_policy("raise", None, "weep")
