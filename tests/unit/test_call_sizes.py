"""How many rows calls have, by what they take: whatever the machine does meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from tasks.preparation import call_sizes

BATCH = [np.arange(32.0), np.float32(3)]
EVEN = {32: 1.0, 16: 0.51, 8: 0.259, 4: 0.14, 2: 0.08, 1: 0.05}


def call(arrays: Sequence[Any]) -> list[Any]:
    return [arrays[0] * 2 + (1e-9 if len(arrays[0]) < 16 else 0.0)]


def take(
    monkeypatch: pytest.MonkeyPatch, seconds: Mapping[int, float], slowness: Callable[[int], float] = lambda number: 1.0
) -> None:
    """Have calls take so long by their rows, times the `slowness` of the machine at the number of the measurement."""
    measured: list[int] = []

    def measure(_: Any, batches: Sequence[Any]) -> float:
        measured.append(len(batches[0][0]))
        return sum(seconds[len(batch[0])] for batch in batches) * slowness(len(measured))

    monkeypatch.setattr(call_sizes, "_seconds", measure)


@pytest.mark.parametrize(
    ("seconds", "rows"),
    [
        ({32: 1.0, 16: 0.5, 8: 0.25, 4: 0.2, 2: 0.1, 1: 0.01}, 8),  # 4 are slower by far, whatever 1 may be
        (EVEN, 16),
        ({32: 1.0, 16: 0.45, 8: 0.225, 4: 0.12, 2: 0.08, 1: 0.05}, 8),
        ({32: 1.0, 16: 0.6, 8: 0.4, 4: 0.4, 2: 0.4, 1: 0.4}, 32),
    ],
)
def test_calls_have_as_few_rows_as_keep_the_speed(
    seconds: dict[int, float], rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    take(monkeypatch, seconds)
    assert call_sizes.least_call_rows(call, BATCH, to_the_bit=False) == rows
    assert call_sizes.least_call_rows(call, BATCH, to_the_bit=True) == max(16, rows)
    monkeypatch.setattr(call_sizes, "MOST_PADDING_BYTES", 3 * 8)
    assert call_sizes.least_call_rows(call, BATCH, to_the_bit=False) <= 4, (
        "more may be faster, and need more to be filled"
    )


@pytest.mark.parametrize(
    "slowness",
    [
        lambda number: 1.6 if number < 5 else 1.0,  # while the larger batches are looked at first
        lambda number: 1.5 if number % 2 else 1.0,
        lambda number: 1.0 + 0.02 * number,
    ],
)
def test_a_machine_that_is_slower_at_times_changes_nothing(
    slowness: Callable[[int], float], monkeypatch: pytest.MonkeyPatch
) -> None:
    take(monkeypatch, EVEN, slowness)
    assert call_sizes.least_call_rows(call, BATCH, to_the_bit=False) == 16


def test_models_that_take_no_other_batch_have_whole_ones() -> None:
    def only_whole(arrays: Sequence[Any]) -> list[Any]:
        if len(arrays[0]) < 32:
            raise ValueError("32 rows, no others")
        return [arrays[0]]

    assert call_sizes.least_call_rows(only_whole, BATCH, to_the_bit=False) == 32
