"""`local()` as in a notebook: a client at once, which lives as long as somebody has it."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from producer import Client, local
from tests.manifests import write_manifest
from tests.waiting import descendants_of, wait_until
from worker_config.errors import NoWorkerError, UsageError

ROWS = np.arange(40, dtype=np.float32)[:, np.newaxis]
FUNCTIONS = "def double(rows):\n    return rows * 2\n"


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("l")
    (folder / "functions.py").write_text(FUNCTIONS)
    return write_manifest(folder, {"double": {"path": "functions:double", "batch_rows": 64}})


@pytest.fixture(scope="module")
def client(manifest: Path) -> Iterator[Client]:
    client = local(manifest, workers=1)
    yield client
    client.close()


def test_it_is_a_client_at_once_without_a_with_block(client: Client) -> None:
    assert isinstance(client, Client)
    np.testing.assert_array_equal(client.predict("double", ROWS), ROWS * 2)


def test_it_works_while_an_event_loop_runs_as_in_a_notebook(client: Client) -> None:
    async def cell() -> None:
        np.testing.assert_array_equal(client.predict("double", ROWS), ROWS * 2)
        np.testing.assert_array_equal(client.submit("double", ROWS).result(), ROWS * 2)

    asyncio.run(cell())


def test_the_end_of_a_process_that_was_forked_does_not_end_it(client: Client) -> None:
    code = "import gc\nclient.close()\nclient = None\ngc.collect()\n"
    pid = os.fork()
    if not pid:
        try:
            exec(code, {"client": client})  # noqa: S102 - what a user's child may do
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    np.testing.assert_array_equal(client.submit("double", ROWS).result(), ROWS * 2)


def test_a_process_s_last_reference_or_its_end_ends_it_and_a_job_keeps_it(manifest: Path) -> None:
    code = f"""
import gc, sys
import numpy as np
from producer import local

rows = np.arange(40, dtype=np.float32)[:, np.newaxis]
job = local({str(manifest)!r}, workers=1).submit("double", rows, chunk_rows=1, max_waiting_bytes=1)
gc.collect()
assert (job.result() == rows * 2).all(), "a job that runs keeps its client"
job.wait()
print("taken", flush=True)
sys.stdin.readline()
del job
gc.collect()
print("dropped", flush=True)
sys.stdin.readline()
again = local({str(manifest)!r}, workers=1)
try:
    again.predict("double", "no such file.npy")  # a cell that fails
except Exception:
    pass
assert (again.predict("double", rows) == rows * 2).all()
print("again", flush=True)
sys.stdin.readline()
"""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin
        assert process.stdout

        def go_on(word: str) -> None:
            assert process.stdout
            assert process.stdout.readline() == f"{word}\n"

        def answer() -> None:
            assert process.stdin
            process.stdin.write("\n")
            process.stdin.flush()

        go_on("taken")
        answer()
        go_on("dropped")
        wait_until(lambda: not descendants_of(process.pid), "nothing runs any more")
        answer()
        go_on("again")
        started = descendants_of(process.pid)
        assert started
        answer()
    assert process.returncode == 0
    wait_until(lambda: not any(map(psutil.pid_exists, started)), "nothing runs any more")


def test_it_ends_with_close_or_a_with_block_and_says_so(manifest: Path) -> None:
    with local(manifest, workers=1) as client:
        assert client.predict("double", ROWS[:1]) == 0
        job = client.submit("double", ROWS)
        folder = Path(client.broker_url.removeprefix("unix://")).parent
        assert folder.exists()
    assert not folder.exists()
    client.close()
    assert job.wait(0)
    gc.collect()
    with pytest.raises(NoWorkerError, match=r"was closed; local\(\) starts another"):
        client.submit("double", ROWS)


def test_what_cannot_start_is_told_at_once() -> None:
    with pytest.raises(UsageError, match="workers is 0"):
        local(workers=0)
