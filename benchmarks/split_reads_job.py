"""A program of its own: one job over Parquet files, and what it cost its producer.

Its argument is JSON: `broker`, `data` and `warm` (folders), `store` or null. It prints a line of JSON: processor
seconds and peak memory of this process, chunks, and the sum of all outputs.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from producer import Client

_RESET_PEAK = "5"


def main(told: dict[str, Any]) -> None:
    """Run the job and say what it cost."""
    with Client(told["broker"]) as client:
        client.submit("total", told["warm"], store=told["store"]).result()  # imports and buffers are paid once
        reset_peak()
        began, started = time.process_time(), time.monotonic()
        job = client.submit("total", told["data"], store=told["store"])
        outputs = sum(float(part.outputs.sum(dtype="float64")) for part in job.parts())  # type: ignore[union-attr]
        found = {
            "cpu_seconds": time.process_time() - began,
            "seconds": time.monotonic() - started,
            "peak_bytes": peak_bytes(),
            "chunks": job.ledger.chunks_answered,
            "rows": job.ledger.predicted,
            "outputs": outputs,
        }
    print(json.dumps(found))


def reset_peak() -> None:
    """Let the most memory of this process be what it has now."""
    Path("/proc/self/clear_refs").write_text(_RESET_PEAK)


def peak_bytes() -> int:
    """Of this process since it was reset; what `getrusage` tells is that of the parent, too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 2**10 for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
