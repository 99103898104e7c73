"""The `celeriac` command as a real process, and a look at what it leaves behind."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import subprocess
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import psutil

from producer.records import job_store
from producer.records.job_store import JobState
from tasks.protocol.records import JobRecord, SlotRecord
from tasks.transport.connection import connect
from tasks.transport.worker_registry import read_slots
from tests import warm
from tests.seals import SEALER
from tests.systems import BIN, SIGNING
from tests.waiting import wait_for_exit, wait_until
from tests.warm import Forked
from worker_config.errors import ExitCode

CELERIAC = BIN / "celeriac"
# A killed process is gone in milliseconds; the kernel may be busy with others.
GONE_SECONDS = 5.0
MARK = "COMMAND_UNDER_TEST"
PROGRESS = re.compile(r"[\d,]+ of [\d,?]+ rows, ")
# Where others use the machine, a worker may stand still for so long that a chunk of its counts as late.
RESENT = re.compile(r"celeriac: job \w+: sends \d+ of its chunks again")
# Likewise an embedded worker may take long to start.
PREPARING = re.compile(r"celeriac: (ready after \d+ s|[a-z]+ing .*, \d+ s(, about \d+ s left)?$)")
SAFE = re.compile(r"(\d+) rows are safe beside (.+); continue with --resume$", re.MULTILINE)


@dataclass(frozen=True)
class Ended:
    """What a command that has ended left: exit code and words."""

    words: tuple[str, ...]
    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> dict[str, Any]:
        """The last line of stdout."""
        value: dict[str, Any] = json.loads(self.stdout.splitlines()[-1])
        return value

    @property
    def safe_rows(self) -> int:
        """How many rows it says are safe."""
        said = SAFE.search(self.stderr)
        return int(said[1]) if said else 0

    @property
    def lines(self) -> list[str]:
        """The lines of stderr that say something: click ends the line with a terminal's ^C first. Progress is none."""
        lines = self.stderr.splitlines()
        told = (PROGRESS, RESENT, PREPARING)
        return [line for line in lines if line and not any(pattern.match(line) for pattern in told)]


@dataclass
class Running:
    """A command that runs."""

    words: tuple[str, ...]
    process: subprocess.Popen[bytes] | Forked
    stdout: Path
    stderr: Path
    temporary: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def signal(self, number: signal.Signals) -> float:
        """Send a signal to this process alone, wait for its end; returns the seconds between the two."""
        started = time.monotonic()
        self.process.send_signal(number)
        wait_for_exit(self.process)
        return time.monotonic() - started

    def end(self) -> Ended:
        """Wait for the end."""
        wait_for_exit(self.process)
        texts = [path.read_text(errors="replace") for path in (self.stdout, self.stderr)]
        return Ended(self.words, self.process.returncode, *texts)

    def embedded_url(self) -> str:
        """The Redis of its own, as soon as it answers."""

        def answering() -> str | None:
            self.check_running()
            for socket in self.temporary.glob("celeriac-*/redis.sock"):
                url = f"unix://{socket}"
                with suppress(Exception), connect(url, retries=0) as client:
                    client.ping()
                    return url
            return None

        return wait_until(answering, "the embedded Redis answers")

    def job_that_predicts(self, url: str) -> JobRecord:
        """The record of the job on this Redis, as soon as rows are predicted."""

        def predicting() -> JobRecord | None:
            self.check_running()
            with connect(url) as client:
                jobs = job_store.read_all(client, SEALER)[0]
            return next((job for state, job in jobs if _is_in_the_middle(state, job)), None)

        return wait_until(predicting, "rows are predicted")

    def slots(self, url: str) -> list[SlotRecord]:
        with connect(url) as client:
            return read_slots(client)

    def check_running(self) -> None:
        assert self.process.poll() is None, self.end()


def _is_in_the_middle(state: JobState, job: JobRecord) -> bool:
    return state is JobState.RUNNING and 0 < job.ledger["predicted"] < (job.rows or 0)


@dataclass
class Celeriac:
    """The command, run in a folder of its own; every process that it starts, and theirs, carries a mark.

    Attributes:
        folder: the current folder of the commands.
        temporary: their TMPDIR.
        prefix: what each command begins with, to run it elsewhere.
    """

    root: Path
    program: Path = CELERIAC
    prefix: tuple[str, ...] = ()
    mark: str = field(default_factory=lambda: secrets.token_hex(8))
    started: list[Running] = field(default_factory=list)

    def __post_init__(self) -> None:
        # Short names: a socket's path has at most 107 bytes.
        self.folder, self.temporary, self._logs = (self.root / name for name in "wtl")
        for folder in (self.folder, self.temporary, self._logs):
            folder.mkdir()

    def environ(self, **more: str) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("CELERIAC_", "CELERY_"))}
        return {**clean, **SIGNING, "TMPDIR": str(self.temporary), MARK: self.mark, **more}

    def start(
        self, *words: object, stderr: IO[bytes] | int | None = None, fresh: bool = False, **environ: str
    ) -> Running:
        """Start `celeriac WORDS`; `stderr` may be a terminal instead of a file.

        It comes out of a process that has imported what it needs already (`tests.warm`), unless it must be `fresh`.
        """
        texts = tuple(map(str, words))
        number = len(self.started)
        out, err = self._logs / f"{number}.out", self._logs / f"{number}.err"
        with out.open("wb") as out_stream, err.open("wb") as err_stream:
            process: subprocess.Popen[bytes] | Forked
            if fresh or self.prefix or self.program != CELERIAC or not warm.suits(environ):
                process = subprocess.Popen(
                    [*self.prefix, str(self.program), *texts],
                    stdin=subprocess.DEVNULL,
                    stdout=out_stream,
                    stderr=err_stream if stderr is None else stderr,
                    env=self.environ(**environ),
                    cwd=self.folder,
                )
            else:
                command = [str(self.program), *texts]
                streams = out_stream, err_stream if stderr is None else stderr
                process = warm.start("command", command, self.folder, self.environ(**environ), *streams)
        running = Running(texts, process, out, err, self.temporary)
        self.started.append(running)
        return running

    def run(self, *words: object, **environ: str) -> Ended:
        """Run `celeriac WORDS` to its end, which must leave nothing running, and no more files than it says."""
        hidden = self.hidden_names()
        ended = self.start(*words, **environ).end()
        self.check_nothing_is_left(self.kept_by(ended) if "predict" in words else hidden)
        return ended

    def succeeds(self, *words: object, **environ: str) -> Ended:
        """Run a command that must end well, without a word on stderr but of progress."""
        ended = self.run(*words, **environ)
        assert ended.code == ExitCode.OK, ended
        assert ended.lines == [], ended
        return ended

    def refuses(self, code: ExitCode, *words: object, **environ: str) -> str:
        """Run a command that must end with this code, one line, and no trace; returns the line."""
        before, hidden = self._files(), self.hidden_names()
        ended = self.start(*words, **environ).end()
        self.check_nothing_is_left(hidden)
        assert ended.code == code, ended
        self.check_one_line(ended)
        self.check_nothing_is_predicted(ended)
        assert self._files() == before
        return ended.lines[0]

    def misused(self, *words: object, **environ: str) -> str:
        """Run a command whose options are wrong: click shows the usage, then one line; returns that line."""
        before = self._files()
        ended = self.run(*words, **environ)
        assert ended.code == ExitCode.USAGE, ended
        assert ended.stderr.startswith("Usage: "), ended
        assert "Traceback" not in ended.stderr, ended
        self.check_nothing_is_predicted(ended)
        assert self._files() == before
        last = ended.stderr.splitlines()[-1]
        assert last.startswith("Error: "), ended
        return last

    def check_nothing_is_predicted(self, ended: Ended) -> None:
        """Nothing on stdout, but for the object that says so, where it was asked for."""
        if ended.words[0] in ("predict", "fetch") and "--json" in ended.words:
            assert len(ended.stdout.splitlines()) == 1, ended
            assert ended.json["ledger"]["predicted"] == 0, ended
        else:
            assert ended.stdout == "", ended

    def check_one_line(self, ended: Ended) -> None:
        assert "Traceback" not in ended.stdout + ended.stderr, ended
        assert len(ended.lines) == 1, ended
        assert ended.lines[0].startswith("celeriac: "), ended
        assert len(ended.lines[0]) > len("celeriac: "), ended

    def check_nothing_is_left(self, kept: Collection[str] = ()) -> None:
        """No process that a command started, no temporary file or folder, and beside outputs what is kept alone."""
        with suppress(AssertionError):  # the ones below say what is left
            wait_until(lambda: not (self.processes() or self.temporary_names()), "nothing is left", GONE_SECONDS)
        for left in (self.processes(), self.temporary_names()):
            assert not left, left
        assert self.hidden_names() == set(kept)

    def kept_by(self, ended: Ended) -> set[str]:
        """The files beside its output that a command says it keeps: a journal, and rows; none where it says nothing."""
        said = SAFE.search(ended.stderr)
        if said is None:
            return set()
        own = {name for name in self.hidden_names() if name.startswith(f".{Path(said[2]).name}.")}
        kept = {name for name in own if name.endswith(".part")}
        assert kept, own
        return kept | {f".{Path(said[2]).name}.journal"}

    def hidden_names(self) -> set[str]:
        return {path.name for path in self.folder.rglob(".*")}

    def visible_names(self) -> set[str]:
        """What is in the folder; the ledger file beside an output is not told, as long as the output is there too."""
        names = {path.name for path in self.folder.iterdir()} - self.hidden_names()
        return names - {f"{name}.ledger.json" for name in names}

    def processes(self) -> list[str]:
        """Every process that carries our mark."""
        return [f"{process.pid} {' '.join(words)}" for process, words in self._marked()]

    def temporary_names(self) -> list[str]:
        return [path.name for path in self.temporary.iterdir()]

    def stop(self) -> None:
        """Kill what a failed test left behind."""
        for running in self.started:
            running.process.kill()
            running.process.wait()
        for process, _ in self._marked():
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def _marked(self) -> list[tuple[psutil.Process, list[str]]]:
        """By environment, which all inherit; Redis overwrites its own with a title that names its folder.

        A fork of a warm process shows that one's environment, and works in our folder.
        """
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                words = process.cmdline()
                by_title = any(str(self.temporary) in word for word in words)
                is_fork = any(word.endswith("warm.py") for word in words)
                works_here = is_fork and Path(process.cwd()).is_relative_to(self.root)
                if by_title or works_here or process.environ().get(MARK) == self.mark:
                    found.append((process, words))
        return found

    def _files(self) -> dict[Path, bytes | None]:
        return {path: path.read_bytes() if path.is_file() else None for path in self.folder.rglob("*")}


def seconds_until(condition: Callable[[], bool], what: str, timeout_seconds: float) -> float:
    """How long a condition took to become true; fails when it takes longer than it may."""
    started = time.monotonic()
    wait_until(condition, what, timeout_seconds)
    return time.monotonic() - started


def read_all(terminal: int) -> str:
    """What a terminal was sent, until nobody holds its other side."""
    pieces = []
    with suppress(OSError), os.fdopen(terminal, "rb", buffering=0) as stream:  # EIO is its way to say that it ends
        while piece := stream.read(65_536):
            pieces.append(piece)
    return b"".join(pieces).decode(errors="replace")
