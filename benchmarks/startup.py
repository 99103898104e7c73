"""What does a command cost before it does anything? Processor seconds of `celeriac --help` and `celeriac status JOB`.

`python -m benchmarks.startup [PATH ...]` prints medians for this environment's `celeriac`, and for others in turns
with it: two checkouts can be compared. The job is one that a Redis of our own knows.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from producer.embedded.redis_server import find_redis_server
from producer.records import job_store
from tasks.protocol.records import JobRecord
from tasks.protocol.seal import Sealer
from tasks.transport.connection import connect

TIMES = 15
JOB = "3f2a00000000"


def main() -> None:
    """Run both commands of each `celeriac`, in turns, and print the medians."""
    commands = [str(Path(sys.executable).with_name("celeriac")), *sys.argv[1:]]
    with _redis() as url:
        questions = {"--help": ["--help"], "status": ["status", JOB, "--broker", url]}
        seconds: dict[tuple[str, str], list[float]] = {}
        for _ in range(TIMES):
            for name, words in questions.items():
                for command in commands:
                    seconds.setdefault((name, command), []).append(_processor_seconds(command, *words))
    for (name, command), times in seconds.items():
        print(f"{name:<8} {median(times):.3f} s (least {min(times):.3f} s)  {command}")


def _processor_seconds(*command: str) -> float:
    before = os.times()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


@contextmanager
def _redis() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="celeriac-") as folder:
        url = f"unix://{folder}/redis.sock"
        command = [find_redis_server(), "--port", "0", "--unixsocket", f"{folder}/redis.sock", "--save", ""]
        server = subprocess.Popen([*command, "--dir", folder], stdout=subprocess.DEVNULL)
        try:
            with connect(url, retries=60) as client:
                record = JobRecord(JOB, ["digits@0"], "rows.npy", "redis", 9, time.time(), time.time(), "here:1", {})
                job_store.create(client, record, Sealer(), ttl_seconds=3_600)
            yield url
        finally:
            server.kill()
            server.wait()


if __name__ == "__main__":
    main()
