"""Sets the stage for a question: a folder, rows to predict, an embedded system, rivals that stand ready."""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt

from benchmarks.models import MODELS, write_models
from producer import Client, local

CHILDREN = 2
_MEMORY = Path("/dev/shm")  # noqa: S108 - folders in it have names of their own


def ask(question: Callable[[bool], bool], description: str | None) -> None:
    """Ask one question from the command line; exit with 1 where there is no valid answer."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="small sizes, to see that it works: the figures mean little"
    )
    parser.add_argument("--attempts", type=int, default=3, help="how often to measure until the machine is quiet")
    chosen = parser.parse_args()
    sys.exit(0 if any(question(chosen.quick) for _ in range(chosen.attempts)) else 1)


@contextmanager
def folder(in_memory: bool = True) -> Iterator[Path]:
    """A temporary folder, in memory where there is such a place, so that no disk is measured by mistake."""
    place = _MEMORY if in_memory and _MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="celeriac-bench-", dir=place) as name:
        yield Path(name)


@contextmanager
def system(place: Path) -> Iterator[Client]:
    """The embedded system with all models of `benchmarks.models`, warm."""
    with local(models=write_models(place), workers=CHILDREN) as client:
        yield client


@contextmanager
def rival_system(models: Path, worker_module: str) -> Iterator[Client]:
    """An embedded system with a rival's worker: `celery -A MODULE worker` in place of our own."""
    embedded: Any = importlib.import_module("producer.embedded.local")
    command = embedded.worker_command

    def rival(*words: Any) -> list[str]:
        return [worker_module if word == "tasks" else word for word in command(*words)]

    with ExitStack() as stack:
        with patch.object(embedded, "worker_command", rival):
            client = stack.enter_context(local(models, CHILDREN))
        yield client


def random_rows(model: str, rows: int) -> npt.NDArray[np.float32]:
    """Distinct rows for a model."""
    return np.random.default_rng(rows).random((rows, *MODELS[model][0]), np.float32)


class Rivals:
    """Plain processes that wait for orders; started before anything is measured, as our children are."""

    def __init__(self, work: Callable[..., None], count: int = CHILDREN) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        for _ in range(count):
            ours, theirs = context.Pipe()
            context.Process(target=_serve, args=(theirs, work), daemon=True).start()
            theirs.close()
            self._pipes.append(ours)
        self.finish()

    def begin(self, *orders: tuple[Any, ...]) -> None:
        """Let each one work on its order."""
        for pipe, order in zip(self._pipes, orders, strict=True):
            pipe.send(order)

    def finish(self) -> None:
        """Wait until all have done it."""
        for pipe in self._pipes:
            pipe.recv()


def _serve(pipe: Connection, work: Callable[..., None]) -> None:
    pipe.send("ready")
    while True:
        try:
            order = pipe.recv()
        except EOFError:  # nobody is there any more
            return
        work(*order)
        pipe.send("done")
