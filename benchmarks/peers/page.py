"""Puts tables of what was measured between the marks of docs/peers.md; the words around them are people's.

<!-- mlp: begin --> ... <!-- mlp: end -->
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.peers.environments import versions_of
from benchmarks.peers.faults import FAULTS, Outcome
from benchmarks.peers.programs import SYSTEMS, settings_of, user_lines
from benchmarks.peers.rounds import OURS, Figures
from benchmarks.report import Finding

PAGE = Path(__file__).parents[2] / "docs" / "peers.md"
_MB = 1e6


def put(text: str, name: str, table: str) -> str:
    """The page's text with the table in the place of the one that stands between the marks of that name.

    Raises:
        ValueError: there are no such marks.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"the page has no marks {begin} and {end}")
    return pattern.sub(lambda _: f"{begin}\n{table}\n{end}", text)


def work_table(name: str, figures: Mapping[str, Figures], findings: Sequence[Finding], about: str) -> str:
    """A work: all systems, then aims."""
    is_requests = name == "requests"
    head = ["system", "rows/s", "rows / processor second", "cold start, s", "memory, MB (without files)", "written, MB"]
    head += ["request, ms (95 %)"] if is_requests else []
    lines = [about, "", *_table(head, [_row(system, its, is_requests) for system, its in figures.items()])]
    if findings:
        rows = [[one.what, one.value, one.aim, _VERDICTS[one.reached]] for one in findings]
        lines += ["", *_table(["", "ratio", "aim", ""], rows)]
    return "\n".join(lines)


_VERDICTS = {True: "reached", False: "**missed**", None: "void"}


def _row(system: str, its: Figures, is_requests: bool) -> list[str]:
    title = SYSTEMS[system].title
    if its.trouble:
        return [title, its.trouble.replace("|", "/")]
    first = [f"{its.first:.1f}", _mb(its.first_pss), _mb(its.first_written)] if its.first else [""] * 3
    cold, memory, written = (f"; first ever {one}" if one else "" for one in first)
    lost = f"; lost {its.lost:,}" if its.lost else ""
    cells = [
        f"**{title}**" if system == OURS else title,
        f"{its.speed:,.0f}{lost}",
        f"{its.thrift:,.0f}",
        f"{its.cold:.1f}{cold}",
        f"{_mb(its.pss)} ({_mb(its.own)}){memory}",
        f"{_mb(its.written)}{written}",
    ]
    return cells + ([f"{1e3 * its.latency:.1f} ({1e3 * its.latency95:.1f})"] if is_requests else [])


def _mb(size: int) -> str:
    return f"{size / _MB:,.0f}"


def faults_table(outcomes: Mapping[str, Mapping[str, Outcome]], about: str) -> str:
    """What happens when."""
    rows = [
        [SYSTEMS[system].title, *(str(its[fault]).replace("|", "/") for fault in FAULTS)]
        for system, its in outcomes.items()
    ]
    return "\n".join([about, "", *_table(["system", *FAULTS.values()], rows)])


def settings_table(names: Sequence[str]) -> str:
    """How each system is set, and how many lines its user writes; a program that several share is told once."""
    rows, told = [], set()
    for name in names:
        system = SYSTEMS[name]
        if system.path in told or not system.path.exists():
            continue
        told.add(system.path)
        settings = "; ".join(f"*{key}*: {value}" for key, value in settings_of(system).items())
        packages = ", ".join(f"{package} {version}" for package, version in versions_of(system.pins).items())
        lines = str(user_lines(system.path.read_text()))
        rows.append([system.title, lines, settings.replace("|", "/"), packages or "ours"])
    return "\n".join(_table(["system", "lines of user code", "settings", "packages"], rows))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    full = [[*row, *[""] * (len(head) - len(row))] for row in rows]
    return [f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *full]]
