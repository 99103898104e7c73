"""All questions, one after the other, each in a process of its own: `python -m benchmarks [--quick] [--attempts N]`."""

from __future__ import annotations

import subprocess
import sys

QUESTIONS = (
    "memory",
    "transport",
    "split_reads",
    "frames",
    "object_stores",
    "small_chunks",
    "chunk_cost",
    "limits",
    "hosts",
    "capacity_costs",
    "capacity",
    "growth",
    "requests",
    "fair_shares",
    "chunk_size",
    "weights",
    "starting",
    "embedded",
    "executors",
    "choice",
    "openvino_cache",
    "guard",
    "small_batches",
    "safety",
    "monitoring",
    "online_check",
    "feeding",
    "dashboard",
    "split_writes",
    "shards",
)


def main() -> int:
    """Ask them all, whatever becomes of one."""
    codes = [
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *sys.argv[1:]], check=False).returncode
        for name in QUESTIONS
    ]
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
