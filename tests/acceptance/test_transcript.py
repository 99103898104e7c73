"""What a new user does and sees, by the README alone: two workers, a job, Flower, a worker that is killed, the report.

`docs/transcript.md` is what this test has seen last; `make transcript` writes it anew.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from tests import browser
from tests.acceptance.commands import Celeriac, Running
from tests.manifests import write_manifest
from tests.ports import free_port
from tests.systems import BIN, REPOSITORY, RedisServer, System, Worker
from tests.waiting import wait_until
from worker_config.errors import ExitCode

TRANSCRIPT = REPOSITORY / "docs" / "transcript.md"
ROWS = 8_000
NODES = ("one", "two")
FLOWER = ("flower", "--address=127.0.0.1", "--tasks-columns=name,args,state,received,runtime,worker")


MODEL = """
from tests.waiting import take


def slow(rows):
    take(0.008 * len(rows))
    return rows * 2
"""


class Transcript:
    """Commands with what they printed, by terminal, as Markdown."""

    def __init__(self) -> None:
        self.commands: list[str] = []
        self._text = ""

    def says(self, text: str) -> None:
        """A line of explanation."""
        self._text += f"\n{text}\n"

    def ran(self, terminal: str, command: str, output: str) -> None:
        """A command and what it has printed."""
        self.commands.append(command)
        lines = [line.rstrip() for line in output.strip().splitlines()]
        self._text += f"\n{terminal}:\n\n```console\n$ {command}\n" + "\n".join(lines) + "\n```\n"

    def text(self, *replaced: tuple[str, str]) -> str:
        """All of it, without what is of this machine alone."""
        text = self._text
        for found, shown in replaced:
            text = text.replace(found, shown)
        return f"# A first hour\n\nSeen and written down by `tests/acceptance/test_transcript.py`.\n{text}"


@contextmanager
def flower(system: System, environ: dict[str, str], port: int) -> Iterator[None]:
    """Flower, until the block ends."""
    with (system.folder / "flower.log").open("wb") as log:
        process = subprocess.Popen(
            [str(BIN / "celery"), "-A", "tasks", *FLOWER, f"--port={port}"],
            env=system.environ(**environ),
            cwd=system.folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield
    finally:
        process.kill()
        process.wait()


def celery(system: System, environ: dict[str, str], *words: str) -> str:
    """What `celery -A tasks WORDS` prints; workers that are gone do not answer, which is an exit code of its own."""
    ended = subprocess.run(
        [str(BIN / "celery"), "-A", "tasks", *words],
        env=system.environ(**environ),
        cwd=system.folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return ended.stdout


def last_lines(worker: Worker, count: int) -> str:
    return "\n".join(worker.output().strip().splitlines()[-count:])


def watched_lines(watching: Running) -> list[str]:
    return [line for line in watching.stderr.read_text().splitlines() if " is running" in line]


def test_what_a_new_user_does_and_sees(celeriac: Celeriac, tmp_path_factory: pytest.TempPathFactory) -> None:
    browser.check_there_is_one()
    here, seen = celeriac.folder, Transcript()
    (here / "my_model.py").write_text(MODEL)
    write_manifest(here, {"slow": "my_model:slow"})
    np.save(here / "rows.npy", np.arange(ROWS * 4, dtype=np.float32).reshape(ROWS, 4))
    ports = free_port(), free_port()
    url = f"redis://127.0.0.1:{ports[0]}/0"
    environ = {"CELERIAC_BROKER_URL": url, "CELERIAC_MODELS": str(here / "models.toml"), "PYTHONPATH": str(REPOSITORY)}
    redis = RedisServer(tmp_path_factory.mktemp("s"), ("--port", str(ports[0]), "--bind", "127.0.0.1")).start()
    system = System(redis, here)
    try:
        seen.says("The folder has a model, `slow`, rows for it, `rows.npy`, and this manifest. Redis runs here.")
        seen.ran("Any terminal", "cat models.toml", (here / "models.toml").read_text())
        seen.says("Two terminals, a worker in each; on other machines it is the same.")
        # Fresh: forks that work in this folder would count as left by a command.
        workers = [
            system.start_worker(here / "models.toml", 1, "-n", f"{node}@%h", environ=environ, fresh=True)
            for node in NODES
        ]
        for node, worker in zip(NODES, workers, strict=True):
            wait_until(lambda worker=worker: " ready" in worker.output(), "it is up")
            seen.ran(f"Terminal {node}", f"celery -A tasks worker -c 1 -l info -n {node}@%h", last_lines(worker, 3))
        wait_until(lambda: len(system.slots()) == 2, "both hold the model")

        seen.says("A third terminal: is all as it should be? Then the job.")
        seen.ran("Terminal three", "celeriac doctor", celeriac.run("doctor", **environ).stdout)
        with flower(system, environ, ports[1]):
            wait_until(lambda: browser_can_open(ports[1]), "Flower listens")
            job_runs = celeriac.start("predict", "slow", "rows.npy", "-o", "scores.npy", **environ)
            job = job_runs.job_that_predicts(url).id
            seen.says("A fourth one looks on.")
            seen.ran("Terminal four", "celeriac jobs", celeriac.start("jobs", **environ).end().stdout)
            watching = celeriac.start("watch", job[:4], **environ)
            seen.ran("Terminal four", "celery -A tasks inspect ready", celery(system, environ, "inspect", "ready"))
            page = browser.look_at(
                f"http://127.0.0.1:{ports[1]}/tasks",
                here / "flower.png",
                ready="document.querySelectorAll('#tasks-table tbody tr td').length > 3",
            )
            assert [text for level, text in page.console if level == "error"] == []
            chunks = re.findall(r"chunk \d+(?:/\d+)? rows \d+-\d+ of job \w+, slow@\w+", page.text)
            assert chunks, page.text
            assert job[:4] in chunks[0]
            seen.says("In a browser, Flower's page of tasks lists the job's chunks:")
            seen.ran("Terminal four", f"celery -A tasks {' '.join(FLOWER)}", "\n".join(chunks[:5]))

        wait_until(lambda: watched_lines(watching), "the watch tells how far it is")
        seen.says("Somebody kills the second worker. Nothing is lost: what it had is sent again.")
        os.killpg(workers[1].pid, signal.SIGKILL)
        seen.ran("Terminal four", f"kill -9 {workers[1].pid}", "")
        wait_until(lambda: len(system.slots()) == 1, "it is noticed")
        seen.ran("Terminal four", "celery -A tasks status", celery(system, environ, "status"))
        ended, watched = job_runs.end(), watching.end()
        assert (ended.code, watched.code) == (ExitCode.OK, ExitCode.OK), (ended, watched)
        assert "again" in ended.stderr, ended.stderr
        seen.ran("Terminal three", "celeriac predict slow rows.npy -o scores.npy", ended.stderr + ended.stdout)
        seen.ran("Terminal four", f"celeriac watch {job[:4]}", watched.stderr + watched.stdout)
        np.testing.assert_array_equal(np.load(here / "scores.npy"), np.load(here / "rows.npy") * 2)

        seen.says("How did it go? One page tells, in any browser.")
        told = celeriac.run("report", job[:4], "-o", "report.html", **environ)
        assert told.code == ExitCode.OK, told
        seen.ran("Terminal four", f"celeriac report {job[:4]} -o report.html", told.stdout)
        report = browser.look_at(
            here / "report.html", here / "report.png", ready="document.body.dataset.drawn === 'yes'"
        )
        assert (report.console, report.requests) == ([], [])
        assert "two" in report.text
        head = "\n".join(line for line in report.text.splitlines()[:6] if line.strip())
        seen.says(f"It begins:\n\n```\n{head}\n```")
    finally:
        for worker in system.workers:
            worker.stop()
        redis.stop()

    shown = {str(here): "/srv", str(ports[0]): "6379", str(ports[1]): "5555", socket.gethostname(): "here"}
    text = seen.text(*shown.items())
    if os.environ.get("WRITE_TRANSCRIPT"):
        TRANSCRIPT.write_text(text)
    known = re.findall(r"^\$ (.*)$", TRANSCRIPT.read_text(), re.MULTILINE)
    assert [shape(command) for command in known] == [shape(command) for command in re.findall(r"^\$ (.*)$", text, re.M)]


def shape(command: str) -> str:
    """A command without what differs each time: ids of jobs and processes."""
    return re.sub(r"\b(watch|report|kill -9) \w+", r"\1 ...", command)


def browser_can_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
