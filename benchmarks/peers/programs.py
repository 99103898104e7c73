"""Starts the programs of systems, each in its environment, and passes orders and answers as lines of JSON.

NAME.py, its `Python` --start--> `Program` --`ask`--> an answer, or why there is none
"""

from __future__ import annotations

import ast
import json
import os
import selectors
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self, cast

import psutil

from benchmarks.peers.environments import python_of

SYSTEMS_FOLDER = Path(__file__).parent / "systems"
_BEGIN, _END = "# user code: begin", "# user code: end"
_END_SECONDS = 20
_ENVIRON = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "PYTHONPATH": str(SYSTEMS_FOLDER),
    # Ours is not installed as the others are, with the bytecode of its modules: it keeps that from its first start on.
    "PYTHONDONTWRITEBYTECODE": "",
}


class ProgramEndedError(Exception):
    """A program has ended, or was killed, before it answered."""


class ProgramHangsError(Exception):
    """A program has not answered in time."""


@dataclass(frozen=True)
class System:
    """One that is compared.

    Attributes:
        title: for people.
        file: of its program, without ".py", below `systems`; of ours, beside it.
        variant: which of those that the program has.
    """

    title: str
    file: str
    variant: str = ""

    @property
    def is_ours(self) -> bool:
        """Whether it is Celeriac."""
        return self.file == "ours"

    @property
    def path(self) -> Path:
        """Of its program."""
        return Path(__file__).parent / "ours.py" if self.is_ours else SYSTEMS_FOLDER / f"{self.file}.py"

    @property
    def pins(self) -> Path:
        """The packages that it needs; where there is no such file, ours will do."""
        return SYSTEMS_FOLDER / f"{self.file}.txt"


SYSTEMS = {
    "celeriac": System("Celeriac", "ours", "chosen"),
    "celeriac_graph": System("Celeriac, models' own graphs", "ours", "graph"),
    "celeriac_bfloat16": System("Celeriac, bfloat16 allowed", "ours", "bfloat16"),
    "loop": System("bare loop", "loop"),
    "predict": System("`model.predict`", "predict"),
    "pool": System("`multiprocessing.Pool`", "pool"),
    "futures": System("`ProcessPoolExecutor`", "futures"),
    "joblib": System("joblib, loky", "joblib_loky"),
    "dask": System("Dask", "dask_local"),
    "celery": System("a Celery app, by hand", "celery_app"),
    "ray_data": System("Ray Data", "ray_data"),
    "beam": System("Beam RunInference", "beam"),
    "spark": System("Spark `predict_batch_udf`", "spark"),
}


class Program:
    """A system's program, which waits for orders.

    Args:
        system: which.
        processes: processors that it may use.
        log: what it and its processes print goes there.
        environ: what it finds in its environment besides.
    """

    def __init__(self, system: System, processes: int, log: Path, environ: Mapping[str, str]) -> None:
        self._log = log
        words = ["-m", "benchmarks.peers.ours"] if system.is_ours else [str(system.path)]
        with log.open("ab") as errors:
            self._log_begins = errors.tell()
            self._process = subprocess.Popen(
                [str(python_of(system.pins)), *words, str(processes), *([system.variant] if system.variant else [])],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                bufsize=0,
                start_new_session=True,
                env={**os.environ, **_ENVIRON, **environ},
            )

    def ask(
        self, order: Mapping[str, Any], timeout_seconds: float, watch: Callable[[], None] = lambda: None
    ) -> dict[str, Any]:
        """Have it carry out an order; `watch` is called ten times a second meanwhile, and may raise.

        Raises:
            ProgramEndedError: it has ended, or answers in no form of ours; the text has its last line.
            ProgramHangsError: there is no answer in time.
        """
        orders, answers = cast("IO[bytes]", self._process.stdin), cast("IO[bytes]", self._process.stdout)
        deadline = time.monotonic() + timeout_seconds
        line = b""
        with selectors.DefaultSelector() as selector:
            selector.register(answers, selectors.EVENT_READ)
            try:
                orders.write(json.dumps(order).encode() + b"\n")
            except BrokenPipeError:
                raise ProgramEndedError(self._last_words()) from None
            while not line.endswith(b"\n"):
                watch()
                if time.monotonic() > deadline:
                    raise ProgramHangsError(f"no answer after {timeout_seconds:.0f} s")
                if selector.select(0.1):
                    piece = answers.read(65_536)
                    if not piece:
                        raise ProgramEndedError(self._last_words())
                    line += piece
        try:
            answer: dict[str, Any] = json.loads(line)
        except ValueError:
            raise ProgramEndedError(f"its answer is {line[:80]!r}") from None
        return answer

    def _last_words(self) -> str:
        code = self._process.wait()
        text = self._log.read_bytes()[self._log_begins :].decode(errors="replace").strip()
        return f"ended with exit code {code}{': ' + text.splitlines()[-1].strip()[:200] if text else ''}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Let it end, then end what it has left behind: everything that this process has for children."""
        for pipe in (self._process.stdin, self._process.stdout):
            pipe.close()  # type: ignore[union-attr]
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
        left = psutil.Process().children(recursive=True)
        for process in left:
            process.kill()
        psutil.wait_procs(left, timeout=_END_SECONDS)
        self._process.wait()


def settings_of(system: System) -> dict[str, str]:
    """What a program says of its settings: its constant SETTINGS; nothing is imported."""
    for node in ast.parse(system.path.read_text()).body:
        if isinstance(node, ast.Assign) and [getattr(target, "id", "") for target in node.targets] == ["SETTINGS"]:
            found: dict[str, str] = ast.literal_eval(node.value)
            return found
    return {}


def user_lines(text: str) -> int:
    """Lines of user code: between the marks, without empty ones, comments and docstrings."""
    count, inside, kept = 0, False, []
    for line in text.splitlines():
        stripped = line.strip()
        if stripped == _BEGIN:
            inside = True
        elif stripped == _END:
            inside = False
        kept.append(line if inside else "")
    strings = _docstring_lines(ast.parse(text))
    for number, line in enumerate(kept, 1):
        stripped = line.strip()
        count += bool(stripped) and not stripped.startswith("#") and number not in strings
    return count


def _docstring_lines(tree: ast.AST) -> set[int]:
    lines: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return lines
