"""Callers of `requests` in event loops: processes, each with many tasks that ask for one row after the other.

lines with a number of requests --standard input--> processes --standard output--> the seconds of each request

The rival's tasks wait in threads (`loop.run_in_executor`), one for each of them, as Celery has nothing for event loops.
`python -m benchmarks.requests_callers celeriac|plain URL FOLDER MODEL`
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks.requests_models import check_close, expected

PROCESSES, TASKS = 4, 16

Ask = Callable[[np.ndarray], Awaitable[np.ndarray]]


@contextmanager
def callers(arm: str, url: str, folder: Path, name: str) -> Iterator[Callable[[int], list[float]]]:
    """The processes; what is given has them ask for so many rows in all, and tells the seconds of each."""
    command = [sys.executable, "-m", "benchmarks.requests_callers", arm, url, str(folder), name]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(PROCESSES)
    ]

    def ask(count: int) -> list[float]:
        for process in processes:
            assert process.stdin is not None  # noqa: S101 - for type checkers
            process.stdin.write(f"{count // PROCESSES}\n")
            process.stdin.flush()
        return [seconds for process in processes for seconds in json.loads(process.stdout.readline())]  # type: ignore[union-attr]

    try:
        ask(PROCESSES * TASKS)
        yield ask
    finally:
        for process in processes:
            process.stdin.close()  # type: ignore[union-attr]
            process.wait()


async def _serve(ask: Ask, rows: np.ndarray, outputs: np.ndarray) -> None:
    seconds: list[float] = []

    async def one(first: int, count: int) -> None:
        answers = []
        for number in range(first, first + count):
            at = number % len(rows)
            began = time.perf_counter()
            answers.append(await ask(rows[at : at + 1]))
            seconds.append(time.perf_counter() - began)
        check_close(np.concatenate(answers), outputs, first)

    while line := await asyncio.to_thread(sys.stdin.readline):
        seconds.clear()
        await asyncio.gather(*(one(task, int(line) // TASKS) for task in range(TASKS)))
        print(json.dumps(seconds), flush=True)


async def _celeriac(url: str, folder: Path, name: str) -> None:
    from producer import AsyncClient

    async with AsyncClient(url) as client:
        await _serve(lambda rows: client.predict(name, rows), *expected(folder, name))  # type: ignore[arg-type]


async def _plain(url: str, folder: Path, name: str) -> None:
    os.environ["PLAIN_URL"] = url.replace("unix://", "redis+socket://")
    from benchmarks.plain_task import ask

    loop, threads = asyncio.get_running_loop(), ThreadPoolExecutor(TASKS)
    await _serve(lambda rows: loop.run_in_executor(threads, ask, rows), *expected(folder, name))


if __name__ == "__main__":
    arm, url, folder, name = sys.argv[1:]
    asyncio.run({"celeriac": _celeriac, "plain": _plain}[arm](url, Path(folder), name))
