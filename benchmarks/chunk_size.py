"""Is the chunk size that Celeriac chooses by itself as good as the best one that somebody could have named?

Three models: a slow one (a small convolutional network), a fast one (three dense layers), a trivial one (rows come back
as they are). Each runs with the automatic size and with a sweep of fixed ones. The best of several noisy figures is a
little too good, so the ratio to it is on the strict side.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from benchmarks.harness import Arm, check_equal, compare
from benchmarks.models import in_one_process
from benchmarks.report import at_least, report_comparison
from benchmarks.stage import CHILDREN, ask, folder, random_rows, system
from producer import Client

AIM = 0.9
# name: (rows, rows when quick, fixed sizes)
SWEEPS = {
    "conv": (2_048, 256, (32, 64, 128, 256, 512)),
    "mlp": (16_384, 1_024, (64, 256, 512, 1_024, 2_048)),
    "identity": (65_536, 8_192, (64, 256, 1_024, 4_096, 8_192)),
}


def question(quick: bool) -> bool:
    """Sweep every model; return whether the machine was quiet each time."""
    with folder() as place, system(place) as client:
        quiet = [_sweep(client, place, model, quick) for model in SWEEPS]
    return all(quiet)


def _sweep(client: Client, place: Path, model: str, quick: bool) -> bool:
    many, few, fixed = SWEEPS[model]
    data = random_rows(model, few if quick else many)
    exactly = model == "identity"
    expected = data if exactly else in_one_process(place, model, data)
    check = partial(check_equal, expected=expected, exactly=exactly)
    automatic = Arm("automatic", partial(client.predict, model, data), check)
    sizes = [Arm(f"{rows} rows", partial(client.predict, model, data, chunk_rows=rows), check) for rows in fixed]
    parts = [part.stop - part.start for part in client.submit(model, data).parts()]
    comparison = compare(automatic, sizes)
    best = comparison.fastest(arm.name for arm in sizes)
    return report_comparison(
        f"chunk_size: {model}",
        comparison,
        len(data),
        {"children": CHILDREN, "automatic": f"{min(parts)}-{max(parts)} rows in {len(parts)} chunks"},
        [at_least(f"automatic / best fixed ({best})", comparison.speed_against(best), AIM)],
        quick=quick,
        measured={"automatic_chunk_rows": parts},
    )


if __name__ == "__main__":
    ask(question, __doc__)
