"""What samples say of a long run: does anything grow, and by how much an hour?

samples --by process--> series --less its warm-up--> slope (Theil-Sen: the median of the slopes of all pairs)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.report import Finding
from tests.soak.sample import ProcessSample, Sample

# Of each series, what is left out: whatever is made once is made by then.
WARM_UP = 0.25
# A series with fewer samples says nothing of its own.
LEAST_SAMPLES = 8
# What memory goes up and down by is, of a shorter run or series, more than what it may grow by in an hour.
LEAST_SECONDS = 1_800.0
LEAST_SHARE = 0.5
AIM_MB_PER_HOUR = 1.0
AIM_MORE = 1.0
AIM_LATENCY = 1.25
MB = 1e6


@dataclass
class Series:
    """One process, from its first sample to its last."""

    kind: str
    times: list[float]
    samples: list[ProcessSample]

    def steady(self, value: Callable[[ProcessSample], float]) -> tuple[np.ndarray, np.ndarray]:
        """Times and values after the warm-up."""
        first = int(WARM_UP * len(self.times))
        return np.array(self.times[first:]), np.array([value(sample) for sample in self.samples[first:]], float)


def series_of(samples: Sequence[Sample]) -> dict[str, list[Series]]:
    """Those with enough samples, by kind of process, the longest first."""
    by_process: dict[tuple[str, int], Series] = {}
    for sample in samples:
        for one in sample.processes:
            series = by_process.setdefault((one.kind, one.pid), Series(one.kind, [], []))
            series.times.append(sample.at)
            series.samples.append(one)
    by_kind: dict[str, list[Series]] = defaultdict(list)
    for series in sorted(by_process.values(), key=lambda one: -len(one.times)):
        if len(series.times) >= LEAST_SAMPLES:
            by_kind[series.kind].append(series)
    return dict(by_kind)


def slopes(times: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The slopes of all pairs, per hour."""
    one, other = np.triu_indices(len(times), 1)
    return (values[other] - values[one]) / (times[other] - times[one]) * 3_600


def theil_sen(pairs: Sequence[np.ndarray]) -> float:
    """The median of the slopes of all pairs within each series."""
    return float(np.median(np.concatenate(pairs)))


def growth(values: np.ndarray) -> float:
    """How much more the last third has than the first, by their medians."""
    third = max(1, len(values) // 3)
    return float(np.median(values[-third:]) - np.median(values[:third]))


def findings(
    samples: Sequence[Sample], seconds: float, keys_left: Sequence[str], files_left: Sequence[str]
) -> list[Finding]:
    """The table: of each kind of process, then of Redis, keys, files and latency."""
    is_long = seconds >= LEAST_SECONDS
    found = [one for kind, series in series_of(samples).items() for one in _of_kind(kind, series, seconds)]
    steady = samples[int(WARM_UP * len(samples)) :]
    times = np.array([sample.at for sample in steady])
    if len(steady) > 1:
        more = theil_sen([slopes(times, np.array([sample.redis_bytes for sample in steady], float))]) / MB
        found.append(_slope("Redis, what it says it uses", more, is_long, f"{len(steady)} samples"))
        found += [
            _ratio("a chunk's seconds, median", np.array([one.probe.median for one in steady]), is_long),
            _ratio("a chunk's seconds, 95th percentile", np.array([one.probe.percentile_95 for one in steady]), False),
            _ratio("a chunk's processor seconds", np.array([one.probe.cpu for one in steady]), is_long),
        ]
        found.append(_more("temporary files", np.array([one.files["temporary"] for one in steady], float)))
        more = growth(np.array([sum(one.keys.values()) for one in steady], float))
        found.append(Finding("keys, those of jobs that may be there for a while included", f"{more:+.1f}"))
    found.append(Finding("keys left", str(len(keys_left)), "0", not keys_left, ", ".join(keys_left)))
    found.append(Finding("files left", str(len(files_left)), "0", not files_left, ", ".join(files_left)))
    return found


def _of_kind(kind: str, series: list[Series], seconds: float) -> list[Finding]:
    """The slopes of all series of a kind together; what the longest has more of everything else."""
    memory = [one.steady(lambda sample: sample.own / MB) for one in series]
    longest = series[0]
    counts = {"threads": lambda sample: float(sample.threads)}
    counts["descriptors"] = lambda sample: float(sum(sample.descriptors.values()))
    span = longest.times[-1] - longest.times[0]
    told = f"{len(series)} series, {sum(len(one.times) for one in series)} samples, the longest {span:.0f} s"
    found = [
        _slope(
            f"{kind}: memory",
            theil_sen([slopes(*one) for one in memory]),
            span >= max(LEAST_SECONDS, LEAST_SHARE * seconds),
            told,
        )
    ]
    return [*found, *(_more(f"{kind}: {what}", longest.steady(value)[1]) for what, value in counts.items())]


def _more(what: str, values: np.ndarray) -> Finding:
    more = growth(values)
    return Finding(what, f"{more:+.1f}", f"<= {AIM_MORE:.0f}", more <= AIM_MORE)


def _slope(what: str, mb_per_hour: float, is_long: bool, note: str) -> Finding:
    reached = mb_per_hour < AIM_MB_PER_HOUR if is_long else None
    return Finding(what, f"{mb_per_hour:+.2f} MB/h", f"< {AIM_MB_PER_HOUR:.0f} MB/h", reached, note)


def _ratio(what: str, values: np.ndarray, has_aim: bool) -> Finding:
    third = max(1, len(values) // 3)
    first, last = float(np.median(values[:third])), float(np.median(values[-third:]))
    reached = last / first <= AIM_LATENCY if has_aim else None
    told = f"{first * 1e3:.1f} ms, then {last * 1e3:.1f} ms"
    return Finding(what, f"{last / first:.2f}", f"<= {AIM_LATENCY:.2f}" if has_aim else "", reached, told)
