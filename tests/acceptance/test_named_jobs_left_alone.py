"""`predict --job NAME` of work that is done needs no worker, which may have been sent home since."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from producer import Client
from tests.acceptance.commands import Celeriac
from tests.held import write_held_models
from tests.manifests import write_manifest
from tests.systems import serving
from tests.waiting import wait_until
from worker_config.errors import ExitCode

ROWS = 20
UNKNOWN = "celeriac: no worker holds the models: whether they have changed since is not known"


@pytest.fixture
def rows(celeriac: Celeriac) -> Path:
    path = celeriac.folder / "rows.npy"
    np.save(path, np.random.default_rng(3).random((ROWS, 4), np.float32))
    return path


def test_what_was_done_is_known_without_a_worker(celeriac: Celeriac, rows: Path, tmp_path: Path) -> None:
    tmp_path.joinpath("s").mkdir()
    with serving(tmp_path / "s", write_manifest(tmp_path / "s", write_held_models(tmp_path / "s")), 1) as system:
        at = ["--broker", system.url, "--worker-timeout-seconds", "0", "--json", "--job"]
        command = ["predict", "held", "rows.npy", "-o", "out.npy", *at, "nightly"]
        detached = ["predict", "held", "rows.npy", "--detach", *at, "weekly"]
        first, left = celeriac.succeeds(*command).json, celeriac.succeeds(*detached).json
        with Client(settings=system.settings()) as client:
            named = client.submit("held", str(rows), detach=True, job="yearly")
            client.attach(left["job"]).result()
        system.workers[0].stop()
        wait_until(lambda: not system.slots(), "no worker is known")

        again = celeriac.run(*command)
        assert (again.code, again.lines) == (ExitCode.OK, [UNKNOWN]), again
        assert again.stdout.startswith(f"nothing to do: {ROWS} rows were predicted before, and written to ")
        assert again.json["done_before"]
        assert again.json["job"] == first["job"]
        ended = celeriac.run(*detached)
        assert (ended.code, ended.json["job"]) == (ExitCode.OK, left["job"]), ended
        (line,) = ended.lines
        assert f"job {left['job']}: whether its models have changed since is not known: no worker" in line
        with Client(settings=system.settings(), worker_timeout_seconds=0) as client:
            assert client.submit("held", str(rows), detach=True, job="yearly") == named

        _check_refused(celeriac, command, detached)


def _check_refused(celeriac: Celeriac, command: list[Any], detached: list[Any]) -> None:
    """What is not done, or is other work, is not said to be done."""
    for other in (["--force"], ["-o", "other.npy"]):
        assert "no worker is up" in celeriac.refuses(ExitCode.NO_WORKER, *command, *other)
    assert "no worker is up" in celeriac.refuses(ExitCode.NO_WORKER, *detached[:-1], "another")
    assert "no worker is up" in celeriac.refuses(ExitCode.NO_WORKER, "predict", "others", *command[2:])
    rows = np.load(celeriac.folder / "rows.npy")
    np.save(celeriac.folder / "rows.npy", rows)  # anew, at another time
    for words in (command, detached):
        line = celeriac.refuses(ExitCode.USAGE, *words)
        assert "does other work: its input has changed (modified: " in line, line
