"""What the sweep sees of a case, as it comes from the process that swept it."""

from __future__ import annotations

import msgspec

from benchmarks.operations.case import PLACES
from tasks.executors import EXECUTORS
from tasks.executors.operation_table import NOT_BUILT, SWEPT_AS, Level, worst

NAMES = [name for name in EXECUTORS if name != "graph" and name not in SWEPT_AS]


class Found(msgspec.Struct):
    """One difference.

    Attributes:
        place: number of one of `PLACES`.
        is_lost: whether an error of the graph is none of the executor.
    """

    executor: str
    place: int
    label: str
    kind: str
    what: str
    is_lost: bool = False


class Seen(msgspec.Struct):
    """What was seen of one case.

    Attributes:
        keys: what it computes on its rows, alone.
        places: by executor, in how many places it ran; 0 where it was not built.
        found: all differences, the first group of rows first.
        why: by executor, why it was not built.
        makes: groups of finite rows of which it makes NaN or infinities, alone.
        tflite_operators: builtin operators of the converted program.
        seconds: that it took.
        failed: why it could not be swept at all; empty where it could.
    """

    name: str
    keys: list[str] = []
    places: dict[str, int] = {}
    found: list[Found] = []
    why: dict[str, str] = {}
    makes: list[str] = []
    tflite_operators: list[str] = []
    seconds: float = 0.0
    failed: str = ""

    def level(self, found: Found) -> Level:
        """A verdict of one difference: what a product gets may be infinite though the rows are finite."""
        is_finite = found.kind == "finite" and not (found.place == 2 and found.label in self.makes)
        return "no" if found.is_lost or is_finite else "finite"

    def levels(self, executor: str) -> list[str]:
        """A verdict for each place."""
        places = self.places.get(executor, 0)
        if not places:
            return [NOT_BUILT]
        mine = [found for found in self.found if found.executor == executor]
        return [worst([self.level(found) for found in mine if found.place == place]) for place in range(places)]

    def first(self, executor: str) -> str:
        """The first of the worst differences, or why it was not built."""
        mine = [found for found in self.found if found.executor == executor]
        wanted = worst(map(self.level, mine))
        said = (f"{one.label}, {PLACES[one.place]}: {one.what}" for one in mine if self.level(one) == wanted)
        return next(said, self.why.get(executor, ""))


def summary(seen: Seen) -> str:
    """One line for people."""
    if seen.failed:
        return f"{seen.name}: FAILED {seen.failed}"
    said = (
        f"{name} {NOT_BUILT if NOT_BUILT in (found := seen.levels(name)) else worst(found)}" for name in seen.places
    )
    return f"{seen.name}: {' '.join(said)}"
