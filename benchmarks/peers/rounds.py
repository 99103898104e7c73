"""Has all systems do a work, in turns, and makes figures of what was measured.

first: ours, whose first start prepares the model
round 1:  ours  the rival  ours (control);  system A  system B ...
round 2:  ours (control)  the rival  ours;  ... system B  system A

Those of which ratios are taken stand side by side, as a machine that others share becomes faster and slower by minutes.
Where the control shows that it was not quiet, they are measured again, which no ratio has a say in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.harness import Interval, bootstrap, is_quiet
from benchmarks.peers.measuring import Visit, visit
from benchmarks.peers.programs import SYSTEMS
from benchmarks.peers.works import Stage

# In which ours has to have prepared a model, at its first start of all.
FIRST_SECONDS = 1_200.0
OURS, CONTROL = "celeriac", "control"
# Whom aims are held against.
RIVAL = "ray_data"
# How often those that are compared are measured in a round, until its control is quiet.
MOST_TRIES = 4
Visits = dict[str, list[Visit]]


@dataclass(frozen=True)
class Figures:
    """A system at a work: medians of all runs.

    Attributes:
        trouble: why there are none, in a line.
        speed: rows a second, warm.
        thrift: rows for a processor second, warm.
        cold: seconds from the start of its program to all outputs written.
        pss, own, written: bytes, of a cold run; `own` is memory without pages of files.
        first, first_pss, first_written: `cold`, `pss` and `written` of ours at the first start of all, which prepares
            the model; 0 of others.
        lost: rows.
        latency, latency95: seconds of a request, the median and the 95th percentile.
    """

    trouble: str = ""
    speed: float = 0.0
    thrift: float = 0.0
    cold: float = 0.0
    pss: int = 0
    own: int = 0
    written: int = 0
    first: float = 0.0
    first_pss: int = 0
    first_written: int = 0
    lost: int = 0
    latency: float = 0.0
    latency95: float = 0.0


def systems_at(stage: Stage, names: Sequence[str]) -> list[str]:
    """Those of the systems that there are arms of for this work."""
    has_model = stage.work.model[0] and stage.name not in ("fit", "requests")
    left_out = set() if has_model else {"celeriac_graph"}
    return [name for name in names if name not in left_out | (set() if stage.work.bfloat16 else {"celeriac_bfloat16"})]


def go_round(stage: Stage, names: Sequence[str], processes: int, log: Path, rounds: int, warm_seconds: float) -> Visits:
    """Visit all systems as many times as there are rounds; one that is in trouble is not visited again.

    Visits of turns that were not quiet are those of `NAME unquiet`, and those of ours that prepared, of `NAME first`.
    """
    found: Visits = {}
    for name in [name for name in names if SYSTEMS[name].is_ours]:
        found[f"{name} first"] = its = [visit(SYSTEMS[name], stage, processes, log, 0, FIRST_SECONDS)]
        if its[0].trouble:  # another start would prepare the model, and count as a later one
            found |= {name: its, **({CONTROL: its} if name == OURS else {})}
    compared = [name for name in names if SYSTEMS[name].is_ours or name == RIVAL]
    others = [name for name in names if name not in compared]
    compared += [CONTROL] if OURS in names else []

    def turn(names: Sequence[str]) -> dict[str, Visit]:
        its = {}
        for name in names:
            if not any(one.trouble for one in found.get(name, [])):
                system = SYSTEMS[OURS if name == CONTROL else name]
                its[name] = one = visit(system, stage, processes, log, warm_seconds)
                print(f"  {stage.name}: {name}: {one.trouble or f'cold {one.cold_seconds:.1f} s'}", flush=True)
        return its

    for number in range(rounds):
        way = -1 if number % 2 else 1
        its = turn(compared[::way])
        for _ in range(0 if stage.quick else MOST_TRIES - 1):
            if any(one.trouble for one in its.values()) or not void({name: [one] for name, one in its.items()}):
                break
            _add(found, {f"{name} unquiet": one for name, one in its.items()})
            its = turn(compared[::way])
        _add(found, its | turn(others[::way]))
    return found


def _add(found: Visits, its: Mapping[str, Visit]) -> None:
    for name, one in its.items():
        found.setdefault(name, []).append(one)


def figures_of(stage: Stage, visits: Visits) -> dict[str, Figures]:
    """By the systems' names."""
    found = {}
    for name in SYSTEMS:
        if its := visits.get(name):
            both = its + (visits.get(CONTROL, []) if name == OURS else [])
            found[name] = _figures(stage.rows, both, visits.get(f"{name} first", []))
    return found


def _figures(rows: int, visits: Sequence[Visit], first: Sequence[Visit]) -> Figures:
    if trouble := next((one.trouble for one in visits if one.trouble), ""):
        return Figures(trouble)
    warm = [trial for one in visits for trial in one.warm]
    latencies = [seconds for one in visits for seconds in one.latencies]
    return Figures(
        speed=rows / median(trial.seconds for trial in warm),
        thrift=rows / median(trial.cpu_seconds for trial in warm),
        cold=median(one.cold_seconds for one in visits),
        pss=int(median(one.pss for one in visits)),
        own=int(median(one.own for one in visits)),
        written=int(median(one.written for one in visits)),
        first=first[0].cold_seconds if first else 0.0,
        first_pss=first[0].pss if first else 0,
        first_written=first[0].written if first else 0,
        lost=max(one.lost for one in visits),
        latency=median(latencies) if latencies else 0.0,
        latency95=float(np.percentile(latencies, 95)) if latencies else 0.0,
    )


def ratio(visits: Visits, what: str, ours: str, rival: str) -> Interval | None:
    """Ours in units of the rival's, within each round; None where either has no figures.

    Args:
        what: "speed" and "thrift", of which more is better; or "cold", "pss", "own".
    """
    above, below = (_values(visits, what, name) for name in (ours, rival))
    if not above or len(above) != len(below):
        return None
    return bootstrap([ours / rival for ours, rival in zip(above, below, strict=True)])


def _values(visits: Visits, what: str, name: str) -> list[float]:
    """One value a round; of ours that of both its runs."""
    its = visits.get(name, [])
    controls = visits.get(CONTROL, []) if name == OURS else []
    if any(one.trouble for one in [*its, *controls]):
        return []
    groups = [[one, *controls[number : number + 1]] for number, one in enumerate(its)]
    return [median(_value(what, one) for one in group) for group in groups]


def _value(what: str, one: Visit) -> float:
    values: dict[str, Any] = {"cold": lambda: one.cold_seconds, "pss": lambda: one.pss, "own": lambda: one.own}
    values["speed"] = lambda: 1 / median(trial.seconds for trial in one.warm)
    values["thrift"] = lambda: 1 / median(trial.cpu_seconds for trial in one.warm)
    return float(values[what]())


def control_of(visits: Visits) -> Interval | None:
    """Ours against ours, by speed."""
    ratios = _control_ratios(visits)
    return bootstrap(ratios) if ratios else None


def void(visits: Visits) -> bool:
    """Whether the machine was not quiet in one of the rounds: a steady drift cancels out over two that are mirrored."""
    return not all(map(is_quiet, _control_ratios(visits)))


def _control_ratios(visits: Visits) -> list[float]:
    first = [_value("speed", one) for one in visits.get(OURS, []) if not one.trouble]
    again = [_value("speed", one) for one in visits.get(CONTROL, []) if not one.trouble]
    return [one / other for one, other in zip(first, again, strict=True)] if len(first) == len(again) else []
