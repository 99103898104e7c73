"""What a chunk costs each kind of process, as it was measured: the numbers that the simulation runs on.

python -m benchmarks.capacity_costs --> costs.json --read_costs--> Costs
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from worker_config.errors import UsageError

PACKAGED = Path(__file__).with_name("costs.json")


@dataclass(frozen=True)
class Work:
    """Processor milliseconds by kind of process; of workers, one main process and the children of all slots."""

    producer_ms: float = 0.0
    redis_ms: float = 0.0
    main_ms: float = 0.0
    child_ms: float = 0.0


@dataclass(frozen=True)
class Costs:
    """Costs of one machine's processors, and of the ways between processes.

    Attributes:
        chunk: of each chunk, whatever it holds, where processes find the next one waiting when they are done with one.
        wake: of each chunk beside that, where a process has slept before it.
        inline_mib: of each MiB of rows that ride in messages.
        stored_mib: of each MiB of rows that go by a key of Redis.
        worker_second: of each second, for each worker, chunks or not; of a producer once, however many there are.
        slot_second: of each second, for each slot.
        hop_ms: from one process to another of the same host, until it runs.
        job_ms: a job's begin and end, from `submit` to the result of no work.
        measured: when, on what, with which versions; for people.
    """

    chunk: Work
    wake: Work = Work()
    inline_mib: Work = Work()
    stored_mib: Work = Work()
    worker_second: Work = Work()
    slot_second: Work = Work()
    hop_ms: float = 0.0
    job_ms: float = 0.0
    measured: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> str:
        """The same, for `read_costs`."""
        return json.dumps(asdict(self), indent=2) + "\n"


# The fields of `Costs` that are not by kind of process.
_OTHERS = {"hop_ms", "job_ms", "measured"}
# No cost is a minute.
MAX_MS = 60_000

# A system whose processes cost nothing.
FREE = Costs(Work())


def read_costs(path: Path = PACKAGED) -> Costs:
    """The costs in a file; those that were measured for this release, if left out.

    Raises:
        UsageError: it cannot be read, or is no such file.
    """
    try:
        return _costs(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{path}: no costs of a capacity plan: {error}; python -m benchmarks.capacity_costs --write writes them"
        ) from error


def _costs(values: Any) -> Costs:
    """As in a file: with all fields, and none else.

    Raises:
        ValueError, TypeError, AttributeError: they are no costs.
    """
    _check_names("the file", values, Costs)
    works = {
        name: Work(
            **{kind: _milliseconds(f"{name}.{kind}", ms) for kind, ms in _check_names(name, value, Work).items()}
        )
        for name, value in values.items()
        if name not in _OTHERS
    }
    hop_ms, job_ms = (_milliseconds(name, values[name]) for name in ("hop_ms", "job_ms"))
    return Costs(**works, hop_ms=hop_ms, job_ms=job_ms, measured=values["measured"])


def _check_names(what: str, values: Any, kind: type) -> dict[str, Any]:
    names = [one.name for one in fields(kind)]
    if not isinstance(values, dict) or sorted(values) != sorted(names):
        raise ValueError(f"{what} must be an object of {', '.join(names)}")
    return values


def _milliseconds(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < MAX_MS:
        raise ValueError(f"{name} is {value!r}: it must be a number from 0 to {MAX_MS:,}")
    return float(value)
