"""Measures what `celeriac --help` and `celeriac status JOB` cost, in processor seconds, beside another checkout's.

python -m benchmarks.command_start [OTHER_CELERIAC]

a job in a private Redis --each command, of this code and the other, in turns--> medians, and their ratio
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from producer import local
from tests.manifests import write_manifest

ROUNDS = 9


def main() -> None:
    """Measure and print."""
    ours = str(Path(sys.executable).with_name("celeriac"))
    commands = [ours, *sys.argv[1:]]
    with (
        tempfile.TemporaryDirectory() as folder,
        local(models=write_manifest(Path(folder), {"double": "operator:pos"}), workers=1) as client,
    ):
        job = client.submit("double", np.zeros((10, 1)))
        job.result()
        job.wait()
        for words in (["--help"], ["status", job.id, "--broker", client.broker_url]):
            taken = [[_processor_seconds([command, *words]) for command in commands] for _ in range(ROUNDS)]
            medians = [statistics.median(column) for column in zip(*taken, strict=True)]
            ratio = f", {medians[0] / medians[1]:.2f} of the other's {medians[1]:.2f}" if len(medians) > 1 else ""
            print(f"celeriac {words[0]}: {medians[0]:.2f} processor seconds{ratio}")


def _processor_seconds(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
