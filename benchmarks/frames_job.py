"""A program of its own: one job over rows of one kind, and the memory that it took.

Its argument is JSON: `broker`, `form`, `kind`, `rows`. It prints a line of JSON: peak memory of this process, its data
included, and the sum of all outputs.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from benchmarks.frames_kinds import FORMS
from benchmarks.split_reads_job import peak_bytes, reset_peak
from producer import Client


def main(told: dict[str, Any]) -> None:
    """Run the job and say what it cost."""
    data = FORMS[told["form"]](told["kind"], told["rows"])
    with Client(told["broker"]) as client:
        client.submit(told["form"], FORMS[told["form"]](told["kind"], 1_000)).result()  # imports are paid once
        reset_peak()
        began = time.process_time()
        job = client.submit(told["form"], data)
        outputs = sum(float(part.outputs.sum(dtype="float64")) for part in job.parts())  # type: ignore[union-attr]
        print(json.dumps({"cpu_seconds": time.process_time() - began, "peak_bytes": peak_bytes(), "outputs": outputs}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
