"""No environment hangs or diverts a run, embedded, with a broker, or in a worker; nor does a system that ends early.

Every foreign variable is set at once, and Celery's name a Redis that is there, and must stay empty. Models are loaded
and prepared anew, with a cache of their own. A run that hangs fails: no command of these tests may take for ever.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from tasks.protocol.rights import OPERATOR
from tests import foreign
from tests.acceptance.commands import Celeriac
from tests.held import held_child, holding, write_held_models
from tests.manifests import by_stem, write_manifest
from tests.models import in_one_process
from tests.systems import RedisServer, System, serving
from tests.waiting import descendants_of, wait_until
from worker_config.errors import ExitCode


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """The Redis of somebody else's Celery project."""
    server = RedisServer(tmp_path_factory.mktemp("o")).start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def environ(tmp_path_factory: pytest.TempPathFactory, other: RedisServer) -> dict[str, str]:
    """What is set in a shop where all is set."""
    folder = tmp_path_factory.mktemp("e")
    theirs = f"redis+socket://{other.folder}/redis.sock"
    named = {name: theirs if value == foreign.NOWHERE else value for name, value in foreign.CELERY.items()}
    cache = {"CELERIAC_CACHE": str(folder / "cache")}
    return {**named, **foreign.MODELS, **foreign.write_keras_json(folder / "k"), **cache}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Path:
    return write_manifest(tmp_path_factory.mktemp("m"), by_stem(models / "digits.keras"))


def test_an_embedded_run_is_the_model_s_own(
    celeriac: Celeriac, models: Path, manifest: Path, environ: dict[str, str], other: RedisServer
) -> None:
    check_predictions(celeriac, models, "--models", manifest, **environ, **foreign.COMMAND)
    check_nobody_was_there(other)


def test_a_worker_of_celery_s_command_serves_its_own_broker_and_predicts_the_model_s_own(
    celeriac: Celeriac,
    models: Path,
    manifest: Path,
    environ: dict[str, str],
    other: RedisServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with serving(tmp_path_factory.mktemp("s")) as system:
        worker = system.start_ready_worker(manifest, 1, environ=environ)
        assert {slot.worker.partition("@")[0] for slot in system.slots()} == {"celery"}
        (told,) = [line for line in worker.output().splitlines() if ": not heeded; " in line]
        assert {*foreign.MODELS, "CELERY_BROKER_URL", "CELERY_WORKER_PURGE"} <= set(told.partition(":")[0].split(", "))

        check_predictions(celeriac, models, "--broker", system.url, **environ, **foreign.COMMAND)
        check_option_wins(system, other)
    check_nobody_was_there(other)


def test_a_model_is_described_as_it_is(celeriac: Celeriac, manifest: Path, environ: dict[str, str]) -> None:
    ended = celeriac.succeeds("models", "--models", manifest, "--json", **environ, **foreign.COMMAND)
    (digits,) = ended.json["models"]
    assert (digits["name"], digits["inputs"][0]["dtype"]) == ("digits", "float32")


@pytest.mark.parametrize(("part", "code"), [("worker", ExitCode.NO_WORKER), ("redis", ExitCode.BROKER)])
def test_an_embedded_run_whose_worker_or_redis_dies_ends_at_once(celeriac: Celeriac, part: str, code: ExitCode) -> None:
    manifest = write_manifest(celeriac.folder, write_held_models(celeriac.folder))
    np.save(celeriac.folder / "rows.npy", np.arange(100, dtype=np.float32).reshape(-1, 1))
    with holding(celeriac.folder, 50.0):
        running = celeriac.start(
            *("predict", "held", "rows.npy", "-o", "out.npy", "--chunk-rows", 10),
            *("--models", manifest, "--workers", 1),
            fresh=True,
        )
        wait_until(lambda: held_child(celeriac.folder) or running.check_running(), "a chunk is in the middle")
        os.kill(main_process_of(running.pid, part), signal.SIGKILL)
        ended = running.end()
    assert ended.code == code, ended
    assert "Traceback" not in ended.stderr
    assert f"the embedded {part} was killed by signal SIGKILL" in ended.lines[-1], ended
    celeriac.check_nothing_is_left(celeriac.kept_by(ended))


def main_process_of(command: int, part: str) -> int:
    """The first of its words: a worker's children have the same."""
    words = {pid: psutil.Process(pid).cmdline() for pid in descendants_of(command)}
    if part == "redis":
        return next(pid for pid, told in words.items() if "redis-server" in told[0])
    return next(pid for pid, told in words.items() if told[1:3] == ["-m", "celery"])


def check_predictions(celeriac: Celeriac, models: Path, *where: object, **environ: str) -> None:
    rows = np.random.default_rng(3).normal(size=(300, 64)).astype(np.float32)
    np.save(celeriac.folder / "rows.npy", rows)
    celeriac.succeeds("predict", "digits", "rows.npy", "-o", "out.npy", *where, **environ)
    expected = in_one_process(models / "digits.keras", rows)
    np.testing.assert_allclose(np.load(celeriac.folder / "out.npy"), expected, rtol=1e-5, atol=1e-6)


def check_option_wins(system: System, other: RedisServer) -> None:
    """Celery's own `-b` names the broker of one command, whatever the environment says."""
    command = ("-b", system.redis.url_as(OPERATOR).replace("unix://", "redis+socket://"))
    elsewhere = {"CELERIAC_BROKER_URL": other.url}
    assert "pong" in system.celery(*command, "inspect", "ping", **elsewhere).stdout
    refused = system.celery("--result-backend", system.url, "inspect", "ping", **elsewhere)
    assert refused.returncode == ExitCode.USAGE, refused
    assert refused.stderr == "celeriac: --result-backend would replace settings that Celeriac relies on; leave it out\n"


def check_nobody_was_there(other: RedisServer) -> None:
    with other.admin() as client:
        assert client.dbsize() == 0
        stats = client.info("commandstats")
    assert not {name for name in stats if name.startswith(("cmdstat_brpop", "cmdstat_lpush", "cmdstat_publish"))}
