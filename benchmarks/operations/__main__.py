"""Sweep all cases and write the table: `python -m benchmarks.operations [--only WORD] [--jobs N] [--executors A,B]`.

With `--executors` the entries of the others stay as they are: where a runtime is new, or has a new version. With
`--only` what is seen is printed and nothing is written. It fails where operations together are worse than each alone
and no pattern says so.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import multiprocessing
import sys
import time
from pathlib import Path

from benchmarks.operations.seen import NAMES
from tasks.models.stderr_filter import settle_chatter
from tasks.models.tensorflow_import import import_tensorflow

MODULES = ("layers", "numeric", "elementwise", "arrays")


def main() -> int:
    """Sweep, write, and say what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="cases with this word in their names")
    parser.add_argument("--jobs", type=int, default=1, help="processes that sweep")
    parser.add_argument("--executors", default=",".join(NAMES), help="with commas between; all, unless given")
    options = parser.parse_args()
    names = options.executors.split(",")
    settle_chatter()
    import_tensorflow()
    gc.freeze()
    import tensorflow as tf

    from benchmarks.operations.derive import table_of
    from benchmarks.operations.seen import Seen
    from benchmarks.operations.sweep import sweep
    from benchmarks.operations.write import write

    started = time.monotonic()
    cases = [case for name in MODULES for case in importlib.import_module(f"benchmarks.operations.{name}").cases()]
    cases = [case for case in cases if options.only in case.name]
    if options.jobs == 1:
        seen = sweep(cases, names, print)
    else:
        # Forked: cases are functions, which have no other way.
        context = multiprocessing.get_context("fork")
        queue = context.Queue()
        shares = [cases[number :: options.jobs] for number in range(options.jobs)]
        workers = [
            context.Process(target=lambda share=share: queue.put(sweep(share, names, print))) for share in shares
        ]
        for worker in workers:
            worker.start()
        found: dict[str, Seen] = {one.name: one for _ in workers for one in queue.get()}
        for worker in workers:
            worker.join()
        seen = [found[case.name] for case in cases]
    known, missing = table_of(cases, seen, tf.__version__, names)
    for pattern in missing:
        print(f"worse together than each alone, and no pattern says so: {pattern}", file=sys.stderr)
    for one in seen:
        if one.failed:
            print(f"{one.name} could not be swept: {one.failed}", file=sys.stderr)
    print(f"{len(seen)} cases, {len(known.operations)} operations, {time.monotonic() - started:.0f} s")
    if options.only:
        for one in seen:
            print(one.name, one.keys, {name: one.first(name) for name in one.places})
        return 0
    write(known, seen, _processor(), names)
    return 1 if missing else 0


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown processor"
    )


if __name__ == "__main__":
    sys.exit(main())
