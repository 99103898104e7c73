"""Does jobs between the present code and that of an earlier commit: one's producer with the other's worker.

    python -m benchmarks.interop COMMIT

    COMMIT --git archive--> a folder --PYTHONPATH--> its worker, the present producer; the present worker, its producer

Each pair does an ordinary job through each store, one with a bad row, one of two models, and a detached one.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from tests.manifests import write_manifest
from tests.systems import REPOSITORY, serving, shared_folders

MODEL = """
import numpy as np


def double(rows):
    if (rows == 13).any():
        raise ValueError("an unlucky row")
    return rows * 2


def half(rows):
    return rows / 2
"""

JOBS = """
import sys
import numpy as np
import producer
from producer import Client

url, data, home = sys.argv[1:]
assert producer.__file__.startswith(home), producer.__file__
rows = np.arange(40_000, dtype=np.float32).reshape(-1, 4) + 14
np.save(data, rows)
unlucky = rows.copy()
unlucky[77] = 13
with Client(url) as client:
    for store in ("redis", "files", "slices"):
        assert np.array_equal(client.predict("double", data if store == "slices" else rows, store=store), rows * 2)
    both = client.predict(["double", "half"], rows, chunk_rows=1_000)
    assert np.array_equal(both["double"], rows * 2) and np.array_equal(both["half"], rows / 2)
    job = client.submit("double", unlucky, on_error="fill")
    assert np.isnan(job.result()[77]).all() and job.failed_mask.sum() == 1 and len(job.failures()) == 1
    job = client.attach(client.submit("double", rows, detach=True))
    assert np.array_equal(job.result(), rows * 2) and job.wait()
print("6 jobs")
"""


def main() -> None:
    """Do the jobs of both pairs; a job that goes wrong ends it with its error."""
    (commit,) = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix="celeriac-interop-") as folder:
        other = Path(folder) / "other"
        archive = subprocess.run(["git", "archive", commit], check=True, capture_output=True, cwd=REPOSITORY).stdout  # noqa: S607
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            files.extractall(other, filter="data")
        for worker, producer in ((other, REPOSITORY), (REPOSITORY, other)):
            place = Path(folder) / f"worker-of-{worker.name}"
            place.mkdir()
            done = _do_jobs(place, worker, producer)
            print(f"worker of {_name(worker, other, commit)}, producer of {_name(producer, other, commit)}: {done}")


def _do_jobs(place: Path, worker: Path, producer: Path) -> str:
    (place / "plain.py").write_text(MODEL)
    manifest = write_manifest(
        place, {name: {"path": f"plain:{name}", "batch_rows": 100} for name in ("double", "half")}
    )
    shared = shared_folders(place)
    with serving(place, manifest, environ={**shared, "PYTHONPATH": str(worker)}) as system:
        command = [sys.executable, "-c", JOBS, system.url, str(place / "data" / "rows.npy"), str(producer)]
        environ = {**os.environ, **shared, "PYTHONPATH": str(producer)}
        return subprocess.run(
            command, check=True, stdout=subprocess.PIPE, text=True, env=environ, cwd=place
        ).stdout.strip()


def _name(tree: Path, other: Path, commit: str) -> str:
    return commit if tree == other else "the present code"


if __name__ == "__main__":
    main()
