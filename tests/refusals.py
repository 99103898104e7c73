"""What each way of reaching Redis says of a URL that cannot work: the same, in one line, and without a traceback."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from producer import Client
from tests.acceptance.commands import Celeriac
from tests.systems import RedisServer, System
from tests.waiting import wait_until
from worker_config.errors import CeleriacError, ExitCode


def check_refused_by_all(url: str, manifest: Path, celeriac: Celeriac, why: str, code: ExitCode) -> None:
    """A worker, a producer, the doctor, and commands of ours and of Celery's."""
    system = System(RedisServer(manifest.parent, address=url), manifest.parent)
    worker = system.start_worker(manifest, 1)
    try:
        wait_until(lambda: worker.process.poll() is not None, "the worker gives up")
        said = {"worker": (worker.process.returncode, worker.output())}
    finally:
        worker.stop()
    for words in (("inspect", "ping"), ("status",), ("control", "shutdown")):
        ended = system.celery(*words)
        said[f"celery {words[0]}"] = (ended.returncode, ended.stderr)
    jobs = celeriac.run("jobs", "--broker", url)
    said["jobs"] = (jobs.code, jobs.stderr)
    doctor = celeriac.run("doctor", "--broker", url, "--models", str(manifest))
    said["doctor"] = (doctor.code, doctor.stdout + doctor.stderr)
    for command, (ended_with, text) in said.items():
        assert ended_with == code, (command, text)
        assert "Traceback" not in text, (command, text)
        lines = [line for line in text.splitlines() if re.search(why, line)]
        assert len(lines) == 1, (command, text)
    with pytest.raises(CeleriacError, match=why) as raised:
        Client(url)
    assert raised.value.exit_code == code
