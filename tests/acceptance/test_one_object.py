"""`celeriac predict` into one object, and into a Zarr store, behind a URL, as users run it."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import suppress

import numpy as np
import pytest

from tasks.storage import objects
from tests.acceptance.commands import Celeriac
from tests.object_stores import ObjectStore
from tests.waiting import wait_until
from worker_config.errors import ExitCode, ObjectError
from worker_config.object_urls import object_url

ROWS = np.arange(8_000, dtype=np.float32).reshape(2_000, 4)
STEPS = "import time\n\n\ndef slow(rows):\n    time.sleep(0.05)\n    return 2 * rows\n"


@pytest.fixture(autouse=True)
def _environment(object_store: ObjectStore) -> Iterator[None]:
    with object_store.used_here():
        objects.put(object_url("s3://rows/there"), b"so that there is a bucket")
        yield


@pytest.fixture
def ready(celeriac: Celeriac) -> Celeriac:
    """A folder with rows and a model that takes its time."""
    np.save(celeriac.folder / "rows.npy", ROWS)
    (celeriac.folder / "steps.py").write_text(STEPS)
    (celeriac.folder / "models.toml").write_text('[models.slow]\npath = "steps:slow"\nbatch_rows = 20\n')
    return celeriac


def words_of(output: str, *more: str) -> list[str]:
    return ["predict", "slow", "rows.npy", "-o", output, "--workers", "1", "--chunk-rows", "20", "--json", *more]


def safe_rows(output: str) -> int:
    """What the journal says."""
    url = object_url(output)
    data = b""
    with suppress(ObjectError):
        data = objects.read_now(url.with_name(f".{url.name}.journal") / "00000") or b""
    lines = data.splitlines()
    return int(json.loads(lines[-1].partition(b" ")[2]).get("stop", 0)) if lines else 0


def test_a_command_that_was_killed_is_continued_on_its_machine(ready: Celeriac) -> None:
    output = "s3://rows/killed/x.npy"
    running = ready.start(*words_of(output))
    wait_until(lambda: running.check_running() or safe_rows(output) >= 200, "rows are safe")
    running.process.kill()
    running.end()
    assert objects.read_now(object_url(output)) is None
    ended = ready.run(*words_of(output, "--resume"))
    assert ended.code == ExitCode.OK, ended.stderr
    assert ended.json["output"] == output
    assert ended.json["ledger"]["resumed"] >= 200
    np.testing.assert_array_equal(np.load(io.BytesIO(objects.read_now(object_url(output)) or b"")), 2 * ROWS)
    beside = [str(url) for url, _ in objects.list_objects(object_url("s3://rows/killed/"))]
    assert beside == [output, f"{output}.ledger.json"]
    assert not [name for name in ready.temporary_names() if "staging" in name]


def test_what_is_there_already_is_told_and_a_dry_run_writes_nothing(ready: Celeriac) -> None:
    for output in ("s3://rows/dry/x.npy", "s3://rows/dry/x.zarr/"):
        ended = ready.run(*words_of(output, "--dry-run"))
        assert ended.code == ExitCode.OK, ended.stderr
        assert ended.json["output"] == output.rstrip("/")
    assert list(objects.list_objects(object_url("s3://rows/dry/"))) == []
    objects.put(object_url("s3://rows/dry/x.npy"), b"of somebody else")
    for more in ((), ("--dry-run",), ("--resume",)):
        told = ready.refuses(ExitCode.USAGE, *words_of("s3://rows/dry/x.npy", *more))
        assert "exists" in told
