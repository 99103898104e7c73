"""What we want to be, against Ray Data: aims by work, and whether they are reached."""

from __future__ import annotations

from dataclasses import dataclass, replace

from benchmarks.harness import Interval
from benchmarks.peers.rounds import OURS, RIVAL, Visits, control_of, ratio, void
from benchmarks.report import Finding, at_least, control


@dataclass(frozen=True)
class Aim:
    """A ratio of ours to Ray Data's.

    Attributes:
        text: for people.
        what: of `rounds.ratio`.
        ours: which of our arms.
        bound: at least, of "speed" and "thrift"; else at most.
    """

    text: str
    what: str
    ours: str
    bound: float

    def finding(self, ratio: Interval) -> Finding:
        """Held against what was found."""
        text = f"{self.text}, of Ray Data's"
        if self.what in ("speed", "thrift"):
            return at_least(text, ratio, self.bound)
        return Finding(text, str(ratio), f"<= {self.bound:.2f}", ratio.median <= self.bound)


_COLD = Aim("cold start to the last row", "cold", OURS, 0.25)
_GRAPH_COLD = Aim("the same, own graph", "cold", "celeriac_graph", 0.25)
_MEMORY = Aim("memory (PSS)", "pss", OURS, 0.3)
_GRAPH_MEMORY = Aim("the same, own graph", "pss", "celeriac_graph", 0.3)
_STARTS = (_COLD, _GRAPH_COLD, _MEMORY, _GRAPH_MEMORY)
_GRAPH = Aim("rows for a processor second, own graph", "thrift", "celeriac_graph", 1.25)
_CHOSEN = Aim("rows for a processor second, chosen executor", "thrift", OURS, 2.0)
_BFLOAT16 = Aim("rows for a processor second, bfloat16", "thrift", "celeriac_bfloat16", 3.0)
_MODEL = (_GRAPH, _CHOSEN, _BFLOAT16, *_STARTS)

AIMS = {
    "mobilenet": _MODEL,
    "mlp": _MODEL,
    "transformer": _MODEL,
    "weights": (_GRAPH, *_STARTS),
    "identity": (Aim("rows a second", "speed", OURS, 2.5), *_STARTS),
    "parquet": (Aim("rows for a processor second", "thrift", OURS, 2.0), _COLD, _MEMORY),
}


def findings(work: str, visits: Visits) -> list[Finding]:
    """Aims that there are figures for, and the control; where that fails, none of them is reached or missed."""
    found = [
        aim.finding(its) for aim in AIMS.get(work, ()) if (its := ratio(visits, aim.what, aim.ours, RIVAL)) is not None
    ]
    same = control_of(visits)
    if void(visits):
        found = [replace(one, reached=None) for one in found]
    return [*found, *([replace(control("control: ours twice", same), reached=not void(visits))] if same else [])]
