"""A process that is nothing but a producer, for the whole of a soak: one client, orders as lines of JSON.

stdin: {"begin": [kinds], "seed": ...} | {"end": true} | {"probe": true}  -->  stdout: {"done": ...} | {"wrong": text}
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from typing import Any, Self

import numpy as np

from producer import Client
from tests.chaos.arena import Arena
from tests.chaos.companions import END_SECONDS, Companion, Requests
from tests.chaos.scene import MODEL, WORKER_TIMEOUT_SECONDS
from tests.soak.companions import Detached, Training
from tests.systems import REPOSITORY
from worker_config.settings import Settings

PROBES, PROBE_ROWS = 100, 64
KINDS: dict[str, type[Companion]] = {kind.__name__: kind for kind in (Requests, Training, Detached)}
_START_SECONDS = 120.0


@dataclass(frozen=True)
class Ground:
    """What jobs are made of: rows, and what the workers give for them when nothing happens, to the bit."""

    rows: np.ndarray
    expected: np.ndarray

    def expect(self, outputs: np.ndarray) -> None:
        np.testing.assert_array_equal(outputs, self.expected[: len(outputs)])


class Producer:
    """The process, seen from outside."""

    def __init__(self, arena: Arena) -> None:
        folder = arena.new_folder()
        np.save(folder / "rows.npy", arena.rows)
        np.save(folder / "expected.npy", arena.expected)
        words = [sys.executable, "-m", "tests.soak.producer", arena.url, str(folder), str(arena.job_ttl_seconds)]
        self._process = subprocess.Popen(
            words, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pid = self._process.pid
        self._answers = Queue[str]()
        threading.Thread(target=self._read, daemon=True).start()
        self._answer("ready", _START_SECONDS)

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put('{"wrong": "the producer has ended"}')

    def ask(self, what: str, seconds: float = END_SECONDS, **more: Any) -> Any:
        """Give an order, and wait until it is carried out; raises what went wrong."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps({what: True} | more) + "\n")
        self._process.stdin.flush()
        return self._answer(what, seconds)

    def _answer(self, what: str, seconds: float) -> Any:
        try:
            found = json.loads(self._answers.get(timeout=seconds))
        except Empty:
            raise AssertionError(f"{what}: the producer says nothing for {seconds:.0f} s") from None
        assert "wrong" not in found, found["wrong"]
        return found["done"]

    def beside(self, kinds: Sequence[type[Companion]]) -> Callable[[Arena, int], Beside]:
        """What a schedule begins beside its job."""
        names = [kind.__name__ for kind in kinds]
        return lambda _, seed: Beside(self, names, seed)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # it has ended
            self._process.communicate(timeout=END_SECONDS)
        self._process.kill()
        self._process.wait()


class Beside:
    """What the producer does beside a job."""

    def __init__(self, producer: Producer, names: Sequence[str], seed: int) -> None:
        self._producer = producer
        producer.ask("begin", kinds=names, seed=seed)

    def end(self) -> None:
        """The last ones are over, and were right."""
        self._producer.ask("end", 2 * END_SECONDS)

    def abandon(self) -> None:
        """The process is ended soon."""


def carry_out(order: dict[str, Any], client: Client, ground: Ground, running: list[Companion]) -> Any:
    """An order, in the process."""
    if "begin" in order:
        running += [KINDS[name](client, ground, order["seed"]) for name in order["kinds"]]
        return len(running)
    if "end" in order:
        for companion in running:
            companion.end()
        done = {type(companion).__name__: companion.done for companion in running}
        running.clear()
        return done
    return [_probe(client, ground) for _ in range(PROBES)]


def _probe(client: Client, ground: Ground) -> float:
    began = time.monotonic()
    outputs = client.submit(MODEL, ground.rows[:PROBE_ROWS], chunk_rows=PROBE_ROWS).result()
    seconds = time.monotonic() - began
    ground.expect(np.asarray(outputs))
    return seconds


def main() -> None:
    """Carry out one order after the other, until there are no more."""
    url, folder, ttl_seconds = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    ground = Ground(np.load(folder / "rows.npy"), np.load(folder / "expected.npy"))
    settings = Settings(job_ttl_seconds=ttl_seconds)
    running: list[Companion] = []
    with Client(url, worker_timeout_seconds=WORKER_TIMEOUT_SECONDS, settings=settings) as client:
        print('{"done": "ready"}', flush=True)
        for line in sys.stdin:
            try:
                answer = {"done": carry_out(json.loads(line), client, ground, running)}
            except Exception:
                answer = {"wrong": traceback.format_exc()}
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
