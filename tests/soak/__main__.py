"""Hours of all kinds of jobs on one system that is hurt: `python -m tests.soak [--hours 2] [--seed 0]`.

It ends at once where an output is wrong, or anything is left behind or hangs, and says the seed, the moment, and what
had happened and grown until then. Else it prints what has grown, and appends it to `benchmarks/results/soak.jsonl`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import traceback
from functools import partial
from pathlib import Path

from benchmarks.report import report
from tests import warm
from tests.chaos.wide_arena import WideArena
from tests.leftovers import RunFolder
from tests.models import write_models
from tests.soak.laps import Soaked, soak
from tests.soak.sample import Sample
from tests.soak.trend import findings

# The least that Redis keeps what jobs have left, so that what it holds is level soon.
JOB_TTL_SECONDS = 60


def main() -> int:
    """Soak; 1 where something was wrong, left, or has grown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=2.0, help="how long, besides the start and the end")
    parser.add_argument("--seed", type=int, default=0, help="another one draws other jobs and injuries")
    chosen = parser.parse_args()
    run_folder, samples = RunFolder(), list[Sample]()
    try:
        soaked = _soak(chosen.hours, chosen.seed, samples)
    except Exception:
        traceback.print_exc()
        until = findings(samples, samples[-1].at if samples else 0.0, [], [])
        print("\nuntil then:", *(f"{one.what}: {one.value}" for one in until), sep="\n  ", file=sys.stderr)
        return 1
    finally:
        warm.end()
        if left := run_folder.end():
            print("\nleft, if nothing else ran meanwhile:", *left, sep="\n  ", file=sys.stderr)
    found = findings(soaked.samples, soaked.seconds, soaked.keys_left, soaked.files_left)
    sizes = {"seed": chosen.seed, "hours": f"{soaked.seconds / 3_600:.2f}", "laps": len(soaked.samples)}
    measured = {
        "samples": [sample.as_dict() for sample in soaked.samples],
        "keys left": soaked.keys_left,
        "files left": soaked.files_left,
    }
    report("soak", sizes, found, void=False, quick=chosen.hours < 0.5, measured=measured)
    return int(any(finding.reached is False for finding in found))


def _soak(hours: float, seed: int, samples: list[Sample]) -> Soaked:
    folder = Path(tempfile.mkdtemp(prefix="s-"))
    models = folder / "models"
    models.mkdir()
    write_models(models)
    arena = WideArena(folder / "a", models / "digits.keras", job_ttl_seconds=JOB_TTL_SECONDS)
    good = False
    try:
        arena.start()
        tell = partial(print, flush=True)
        soaked = soak(arena, seed, lambda lap, seconds: seconds < hours * 3_600, tell, samples=samples)
        good = True
    finally:
        arena.stop(check=good)
    return soaked


if __name__ == "__main__":
    sys.exit(main())
