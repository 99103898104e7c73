"""A password that is planted, and all that a system shows, in which it must not be found."""

from __future__ import annotations

import base64
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from tests.acceptance.commands import Celeriac
from tests.systems import BIN, System
from tests.waiting import descendants_of, wait_until

# With what URLs write otherwise.
PASSWORD = "pl4nted/p@ss+w%rd"
QUOTED = quote(PASSWORD, safe="")
_FORMS = ("pl4nted", QUOTED, base64.b64encode(PASSWORD.encode()).decode())


def check_not_in(texts: dict[str, str]) -> None:
    """None of the texts, by where they were shown, has the password, however it is written."""
    for where, text in texts.items():
        assert text, f"{where} shows nothing at all"
        assert not [form for form in _FORMS if form in text], where


def shown_by_commands(system: System, celeriac: Celeriac, manifest: Path) -> dict[str, str]:
    """What commands of ours and of Celery's print, and the command lines of a worker and all its children."""
    environ = system.environ(manifest)
    shown = {}
    for words in ("inspect stats", "inspect conf", "inspect report", "inspect active_queues", "status", "report"):
        ended = system.celery(*words.split())
        assert ended.returncode == 0, (words, ended.stderr)
        shown[f"celery {words}"] = ended.stdout + ended.stderr
    for words in ("doctor", "doctor --json", "jobs", "models"):
        ended_ours = celeriac.run(*words.split(), **{name: environ[name] for name in environ if "CELERIAC" in name})
        shown[f"celeriac {words}"] = ended_ours.stdout + ended_ours.stderr
    for worker in system.workers:
        shown["the worker's log"] = worker.output()
        for pid in (worker.pid, *descendants_of(worker.pid)):
            shown[f"the command line of {pid}"] = Path(f"/proc/{pid}/cmdline").read_text()
    return shown


def shown_by_flower(system: System) -> dict[str, str]:
    """Its pages, and its log."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = system.folder / "flower.log"
    with _flower(system, port, log):
        wait_until(lambda: _page(port, ""), "Flower listens")
        workers = wait_until(lambda: _page(port, "api/workers?refresh=1"), "Flower knows the worker")
        node = next(iter(system.slots())).worker.partition(":")[0]
        assert node in workers
        shown = {path: _page(port, path) for path in ("workers", f"worker/{node}", "broker", "tasks", "api/workers")}
    return {**{f"Flower's /{path}": page for path, page in shown.items()}, "Flower's log": log.read_text()}


@contextmanager
def _flower(system: System, port: int, log: Path) -> Iterator[None]:
    command = [str(BIN / "celery"), "-A", "tasks", "flower", "--address=127.0.0.1", f"--port={port}"]
    # Flower shows its API to nobody who does not ask for that.
    environ = {**system.environ(), "FLOWER_UNAUTHENTICATED_API": "1"}
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environ, cwd=system.folder, stdout=output, stderr=output)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _page(port: int, path: str) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=30) as page:
            return str(page.read().decode())
    except (urllib.error.URLError, ConnectionError):
        return ""
