"""`local()` as in a notebook: a client at once, which lives as long as somebody has it."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE
from typing import Any

import numpy as np
import psutil
import pytest

from producer import Client, JobState, local
from tests.held import held_child, holding, write_held_models
from tests.manifests import write_manifest
from tests.waiting import descendants_of, wait_until
from worker_config.errors import NoWorkerError, RowsFailedError, UsageError

ROWS = np.arange(40, dtype=np.float32)[:, np.newaxis]
FUNCTIONS = """
def double(rows):
    if 8000 in rows:
        raise ValueError("a row that I do not like")
    return rows * 2
"""


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("l")
    (folder / "functions.py").write_text(FUNCTIONS)
    entries = {"double": {"path": "functions:double", "batch_rows": 64}, **write_held_models(folder)}
    return write_manifest(folder, entries)


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


def test_a_job_is_awaited_and_says_what_it_is(client: Client) -> None:
    async def cell() -> None:
        job = client.submit("double", ROWS)
        turns = asyncio.create_task(asyncio.sleep(0))
        first, second = await asyncio.gather(job_result(job), job_result(job))
        assert turns.done()
        np.testing.assert_array_equal(first, ROWS * 2)
        assert second is first
        assert repr(job).startswith(f"<Job {job.id}: double@")
        assert repr(job).endswith(", done, 40 of 40 rows done>")
        assert "<svg" in job._repr_html_()
        with pytest.raises(RowsFailedError):
            await client.submit("double", np.float32([[8000]]))

    async def job_result(job: Any) -> Any:
        return await job

    asyncio.run(cell())


def test_a_detached_job_is_awaited_too(client: Client) -> None:
    async def cell() -> None:
        job = client.attach(client.submit("double", ROWS, detach=True))
        np.testing.assert_array_equal(await job, ROWS * 2)
        assert repr(job).endswith(", done, 40 of 40 rows done>")
        assert "<td" in job._repr_html_()
        job.cancel()
        assert repr(job).startswith(f"<DetachedJob {job.id}: ")

    asyncio.run(cell())


def test_a_task_that_awaits_a_job_and_is_cancelled_cancels_it(client: Client, manifest: Path) -> None:
    async def cell() -> None:
        job = client.submit("held", np.float32([[-1]]))
        awaited = asyncio.ensure_future(job)
        await asyncio.to_thread(wait_until, lambda: held_child(manifest.parent), "the child is held")
        awaited.cancel()
        with pytest.raises(asyncio.CancelledError):
            await awaited
        await asyncio.to_thread(wait_until, lambda: job.state is JobState.CANCELLED, "the job has ended")

    with holding(manifest.parent, -1.0):
        asyncio.run(cell())


def test_an_interrupt_ends_the_job_that_is_waited_for_but_not_a_loop_over_parts(client: Client, manifest: Path) -> None:
    calls = {
        "job.result()": ["KeyboardInterrupt", "JobCancelledError", "cancelled"],
        "client.predict('held', rows, chunk_rows=1)": ["KeyboardInterrupt", "no job"],
        "take()": ["KeyboardInterrupt", "[[2], [-2], [4]]", "done"],
    }
    for call, expected in calls.items():
        assert interrupted(client.broker_url, call, manifest.parent) == expected


def interrupted(broker_url: str, call: str, folder: Path) -> list[str]:
    """What a process says of a call that is interrupted (Ctrl-C) while a child is held, and of what comes after."""
    code = f"""
import os, signal, sys, threading, traceback
from pathlib import Path
import numpy as np
from producer import Client
from tests.held import held_child
from tests.waiting import wait_until

def waits_for_a_part():
    frame = sys._current_frames()[threading.main_thread().ident]
    return any(one.filename.endswith("part_queue.py") for one in traceback.extract_stack(frame))

def interrupt():
    wait_until(lambda: held_child(Path({str(folder)!r})) and waits_for_a_part(), "it waits")
    os.kill(os.getpid(), signal.SIGINT)

rows, taken = np.float32([[1], [-1], [2]]), []
client = Client({broker_url!r})
job = client.submit("held", rows, chunk_rows=1) if "predict" not in {call!r} else None

def take():
    for part in job.parts():
        taken.append(part.outputs)

threading.Thread(target=interrupt).start()
try:
    {call}
except KeyboardInterrupt:
    print("KeyboardInterrupt", flush=True)
sys.stdin.readline()
if job is None:
    for one in list(client._jobs.values()):
        one.wait(60)
    print(*client._jobs or ["no job"])
    sys.exit()
try:
    {call}
    print(np.concatenate(taken).astype(int).tolist())
except Exception as error:
    print(type(error).__name__)
job.wait()
print(job.state)
"""
    with (
        holding(folder, -1.0) as let_go,
        subprocess.Popen([sys.executable, "-c", code], stdin=PIPE, stdout=PIPE, text=True) as process,
    ):
        assert process.stdout
        first = process.stdout.readline()
        let_go()
        rest, _ = process.communicate("\n")
    return (first + rest).splitlines()


def test_a_result_that_failed_fails_again_and_is_never_what_is_left_of_it(client: Client) -> None:
    job = client.submit("double", np.float32([[1], [8000]]), chunk_rows=1)
    for _ in range(2):
        with pytest.raises(RowsFailedError, match="a row that I do not like"):
            job.result()


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
    with subprocess.Popen([sys.executable, "-c", code], stdin=PIPE, stdout=PIPE, text=True) as process:
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
