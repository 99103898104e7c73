"""How do others do the same work: as fast, as thriftily, as safely? `python -m benchmarks.peers [--quick] ...`

Each system is installed in an environment of its own, and does the same works, with the same models, rows and
processors; every output is checked. A run of all systems, in full sizes, puts its tables into docs/peers.md.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from benchmarks import report as reports
from benchmarks.peers import aims, faults, page, rounds, works
from benchmarks.peers.environments import NotInstalledError, python_of, versions_of
from benchmarks.peers.measuring import adopt_orphans
from benchmarks.peers.programs import SYSTEMS
from benchmarks.report import Finding
from benchmarks.stage import CHILDREN, folder

# By a quick run, and else.
WARM_SECONDS = {True: 0.001, False: 4.0}


def main(words: Sequence[str] | None = None) -> int:
    """Compare; the exit code is 1 where a result is void, but for a quick run, of which no figure counts."""
    asked = _arguments(words)
    adopt_orphans()
    # Whatever the machine has: servers and collectors of garbage would get others besides.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CHILDREN])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing is left, neither processes nor files
    reports.RESULTS = asked.results
    for name in asked.systems:
        with suppress(NotInstalledError):  # each of its rows says why
            python_of(SYSTEMS[name].pins)
    quiet = True
    with folder(in_memory=False) as place:
        for work in asked.works:
            if work == "faults":
                _show(asked.page, work, _faults(asked, place))
            else:
                table, is_void = _work(work, asked, place)
                _show(asked.page, work, table)
                quiet &= not is_void
    _show(asked.page, "settings", page.settings_table(list(SYSTEMS)))
    return 0 if quiet or asked.quick else 1


def _show(path: Path | None, name: str, table: str) -> None:
    """Into the page, at once: what comes next may be stopped; without one, onto the screen."""
    if path:
        path.write_text(page.put(path.read_text(), name, table))
    else:
        print(f"\n## {name}\n\n{table}", flush=True)


def _work(name: str, asked: argparse.Namespace, place: Path) -> tuple[str, bool]:
    with works.set_up(name, asked.quick) as stage:
        names = rounds.systems_at(stage, asked.systems)
        visits = rounds.go_round(stage, names, CHILDREN, place / "log", asked.rounds, WARM_SECONDS[asked.quick])
        figures, found = rounds.figures_of(stage, visits), aims.findings(name, visits)
        is_void = rounds.void(visits)
    shown = [
        Finding(
            f"{SYSTEMS[system].title}, rows/s",
            its.trouble[:60] or f"{its.speed:,.0f}",
            note=f"{its.thrift:,.0f} a processor second, cold {its.cold:.1f} s, {its.pss / 1e6:,.0f} MB",
        )
        for system, its in figures.items()
    ]
    sizes = {"rows": stage.rows, "batch rows": stage.work.batch_rows, "processors": CHILDREN, "rounds": asked.rounds}
    sizes["turns measured again"] = len(visits.get(f"{rounds.OURS} unquiet", []))
    measured = {
        "visits": {system: [asdict(one) for one in its] for system, its in visits.items()},
        "packages": {system: versions_of(SYSTEMS[system].pins) for system in names},
    }
    reports.report(f"peers: {name}", sizes, shown + found, void=is_void, quick=asked.quick, measured=measured)
    return page.work_table(name, figures, found, _about(sizes, is_void)), is_void


def _faults(asked: argparse.Namespace, place: Path) -> str:
    outcomes: dict[str, dict[str, faults.Outcome]] = {}
    names = [name for name in asked.systems if SYSTEMS[name].variant in ("", "chosen")]
    for fault, what in faults.FAULTS.items():
        with faults.set_up(fault, asked.quick) as (stage, bad):
            for name in names:
                its = faults.outcome(SYSTEMS[name], fault, stage, bad, CHILDREN, place / "log")
                outcomes.setdefault(name, {})[fault] = its
                print(f"  {what}: {name}: {its}", flush=True)
    shown = [
        Finding(f"{SYSTEMS[name].title}: {faults.FAULTS[fault]}", str(its))
        for name in names
        for fault, its in outcomes[name].items()
    ]
    sizes = {"rows": faults.ROWS[asked.quick], "batch rows": faults.BATCH_ROWS, "processors": CHILDREN}
    measured = {name: {fault: asdict(one) for fault, one in its.items()} for name, its in outcomes.items()}
    reports.report("peers: faults", sizes, shown, void=False, quick=asked.quick, measured=measured)
    return page.faults_table(outcomes, _about(sizes, False))


def _about(sizes: dict[str, int], is_void: bool) -> str:
    its = reports.where()
    told = ", ".join(f"{name} {value:,}" for name, value in sizes.items())
    void = " **Void: the machine was not quiet, the same arm came out different from itself.**" if is_void else ""
    return f"{told[0].upper()}{told[1:]}; {its['machine']['cpu']}, commit {its['commit'][:8]}.{void}"


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", type=_names(SYSTEMS), default=list(SYSTEMS), help=", ".join(SYSTEMS))
    kinds = [*works.WORKS, "faults"]
    parser.add_argument("--works", type=_names(kinds), default=kinds, help=", ".join(kinds))
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it works: figures mean little")
    parser.add_argument("--rounds", type=int, help="how often each system starts; 2, or 1 with --quick")
    parser.add_argument("--results", type=Path, default=reports.RESULTS, help="the folder of peers.jsonl")
    parser.add_argument("--page", type=Path, help="where tables go; docs/peers.md for all systems in full sizes")
    asked = parser.parse_args(words)
    asked.rounds = asked.rounds or (1 if asked.quick else 2)
    if asked.page is None and not asked.quick and len(asked.systems) == len(SYSTEMS):
        asked.page = page.PAGE
    return asked


def _names(known: Sequence[str] | dict[str, object]):  # type: ignore[no-untyped-def]
    def parse(text: str) -> list[str]:
        names = [name.strip() for name in text.split(",") if name.strip()]
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not among {', '.join(known)}")
        return names

    return parse


if __name__ == "__main__":
    sys.exit(main())
