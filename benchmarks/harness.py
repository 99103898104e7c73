"""Compares arms: run them interleaved in blocks, check every output, give ratios with their intervals.

    block 1:  ours   rival A  rival B  ours (control)
    block 2:  ours (control)  rival B  rival A  ours       ... five blocks or more

A ratio is taken within a block, so that what slows the machine for a while slows all arms of it. Ours runs at both ends
of a block: the two times against each other are the control, and their mean is what rivals are held against. A block in
which other programs were busy is run again; whether it is depends on what they used, never on our figures.
"""

from __future__ import annotations

import gc
import mmap
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil

from benchmarks.meter import Load, wait_until_idle

MIN_BLOCKS = 5
# How far the same arm may be from itself, as a median over the blocks.
QUIET = 0.05
# The share of all processors that other programs may take while an arm runs.
DISTURBED = 0.05
_RESAMPLES = 10_000
# More than any arm needs; on a small machine, a quarter of what it can spare.
_TOUCHED_BYTES = 3 * 2**30


class WrongOutputError(Exception):
    """An arm gave another output than one process does; what it measured is worth nothing."""


@dataclass(frozen=True)
class Arm:
    """One way to do the work.

    Attributes:
        run: does it, and returns its output; the clock runs only here.
        check: looks at the output, and raises WrongOutputError.
    """

    name: str
    run: Callable[[], Any]
    check: Callable[[Any], None]


@dataclass(frozen=True)
class Trial:
    """One run of an arm: its time, that of all processors, and what share of them other programs took."""

    seconds: float
    cpu_seconds: float
    others: float


@dataclass(frozen=True)
class Interval:
    """The median of some values, and the bounds between which it lies with 95 %."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} [{self.low:.2f}, {self.high:.2f}]"


@dataclass(frozen=True)
class Comparison:
    """What was measured: seconds of wall clock and of all processors, by arm, one value for each block.

    Attributes:
        control_seconds: of ours, run a second time.
        disturbed_blocks: how many were run again.
        others: by block, the largest share of the processors that other programs took.
    """

    ours: str
    seconds: dict[str, list[float]]
    cpu_seconds: dict[str, list[float]]
    control_seconds: list[float]
    disturbed_blocks: int
    others: list[float]

    @property
    def control(self) -> Interval:
        """Ours against ours; 1.00 on a quiet machine."""
        return bootstrap(ratios(self.seconds[self.ours], self.control_seconds))

    @property
    def void(self) -> bool:
        """Whether the machine was not quiet: nothing else in here may then be believed."""
        return not is_quiet(self.control.median)

    def speed_against(self, rival: str) -> Interval:
        """Our rate in units of the rival's: 0.5 is half as fast."""
        ours = [sum(both) / 2 for both in zip(self.seconds[self.ours], self.control_seconds, strict=True)]
        return bootstrap(ratios(self.seconds[rival], ours))

    def thrift_against(self, rival: str) -> Interval:
        """The rival's processor seconds in units of ours, which has run twice: 0.5 is that we take twice as many."""
        return bootstrap(ratios(self.cpu_seconds[rival], self.cpu_seconds[self.ours]))

    def median_seconds(self, name: str) -> float:
        """The middle one of an arm's times."""
        return float(np.median(self.seconds[name]))

    def fastest(self, names: Iterable[str]) -> str:
        """The arm with the shortest median time."""
        return min(names, key=self.median_seconds)


def compare(ours: Arm, rivals: Sequence[Arm], blocks: int = MIN_BLOCKS) -> Comparison:
    """Run every arm once to warm up, then all of them in each block.

    Raises:
        WrongOutputError: an output is wrong; there is no result then.
    """
    if blocks < MIN_BLOCKS:
        raise ValueError(f"{blocks} blocks are too few for a median; the least is {MIN_BLOCKS}")
    arms = [ours, *rivals]
    for arm in arms:
        measure(arm)
    kept: list[list[Trial]] = []
    disturbed = 0
    while len(kept) < blocks:
        wait_until_idle()
        trials = _run_block([*arms, ours], backwards=len(kept) % 2 == 1)
        if max(trial.others for trial in trials) > DISTURBED and disturbed < blocks:
            disturbed += 1
        else:
            kept.append(trials)
    by_arm = list(zip(*kept, strict=True))  # the control comes last
    return Comparison(
        ours=ours.name,
        seconds={arm.name: [trial.seconds for trial in by_arm[number]] for number, arm in enumerate(arms)},
        cpu_seconds={arm.name: [trial.cpu_seconds for trial in by_arm[number]] for number, arm in enumerate(arms)},
        control_seconds=[trial.seconds for trial in by_arm[-1]],
        disturbed_blocks=disturbed,
        others=[max(trial.others for trial in trials) for trials in kept],
    )


def measure(arm: Arm, *, touch: bool = True) -> Trial:
    """Run an arm once and check its output; memory is touched before, unless figures do not count."""
    gc.collect()
    if touch:
        touch_memory()
    load = Load()
    started = time.monotonic()
    output = arm.run()
    seconds = time.monotonic() - started
    cpu, others = load.since()
    arm.check(output)
    return Trial(seconds, cpu, others)


def touch_memory() -> None:
    """Make sure that free memory is the machine's own.

    A virtual machine gives pages that it does not use back to its host, and gets them again at 2 s per GiB: an arm that
    came after a pause would pay for what the one before it left behind.
    """
    touched = np.empty(min(_TOUCHED_BYTES, psutil.virtual_memory().available // 4), np.uint8)
    touched[:: mmap.PAGESIZE] = 1


def _run_block(arms: list[Arm], backwards: bool) -> list[Trial]:
    """Trials in the order of the arms, whatever the order in which they were run."""
    trials = [measure(arm) for arm in (reversed(arms) if backwards else arms)]
    return trials[::-1] if backwards else trials


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """The ratios within each block."""
    return [above / below for above, below in zip(numerators, denominators, strict=True)]


def bootstrap(values: Sequence[float]) -> Interval:
    """The median, with the 95 % interval of medians of samples drawn from the values; the same for the same values."""
    drawn = np.random.default_rng(0).choice(np.asarray(values, float), (_RESAMPLES, len(values)))
    low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
    return Interval(float(np.median(values)), float(low), float(high))


def is_quiet(control: float) -> bool:
    """Whether the same thing, measured twice, came out the same."""
    return abs(control - 1) <= QUIET


def check_equal(output: Any, expected: Any, *, exactly: bool = True) -> None:
    """Hold an output against what one process gave: the count of rows, their order, the values.

    Raises:
        WrongOutputError: they differ; the text tells the first row that does.
    """
    output, expected = np.asarray(output), np.asarray(expected)
    if (output.shape, output.dtype) != (expected.shape, expected.dtype):
        raise WrongOutputError(f"{output.dtype} {output.shape} came out, not {expected.dtype} {expected.shape}")
    same = output == expected if exactly else np.isclose(output, expected, rtol=1e-4, atol=1e-5)
    if not same.all():
        row = int(np.flatnonzero(~same.reshape(len(same), -1).all(axis=1))[0])
        raise WrongOutputError(f"row {row} is {output[row]}, not {expected[row]}")
