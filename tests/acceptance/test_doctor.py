"""`celeriac doctor`: each fault of a set-up is one line that says what to do, and the exit code is the run's own."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tasks.transport.worker_registry import read_facts, read_workers
from tests.acceptance.commands import Celeriac, Ended
from tests.acceptance.test_bad_input import PasswordRedis
from tests.manifests import write_manifest
from tests.systems import SECURED, RedisServer, System, shared_folders
from tests.waiting import slowdown, wait_until
from worker_config.errors import ExitCode

Finding = dict[str, Any]


@pytest.fixture
def start_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., RedisServer]]:
    """Start a server with options of its own."""
    servers = []

    def start(*options: str, secured: bool = SECURED) -> RedisServer:
        servers.append(RedisServer(tmp_path_factory.mktemp("s"), options, secured=secured).start())
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@contextmanager
def two_workers(folder: Path, *workers: tuple[Path, dict[str, str]]) -> Iterator[System]:
    """A Redis, and a worker with one child for each manifest and environment; all have told of themselves."""
    system = System(RedisServer(folder).start(), folder)
    try:
        for number, (manifest, environ) in enumerate(workers):
            system.start_worker(manifest, 1, "-n", f"w{number}@%h", environ=environ)
        wait_until(lambda: len(told(system)) == len(workers), "all workers have told of themselves")
        yield system
    finally:
        system.stop()


def told(system: System) -> list[str]:
    """The workers that have a slot, and have told of themselves."""
    assert all(worker.process.poll() is None for worker in system.workers), system.workers[0].output()
    with system.admin() as client:
        workers = read_workers(client)
        facts = read_facts(client, workers)
    return [name for name, slots in workers.items() if slots and facts[name]]


def examine(celeriac: Celeriac, code: ExitCode, *words: object, **environ: str) -> dict[str, list[Finding]]:
    """What the doctor finds, by check; the same as lines and as JSON, both with this exit code."""
    shown = celeriac.run("doctor", *words, **environ)
    ended = celeriac.run("doctor", "--json", *words, **environ)
    for one in (shown, ended):
        assert one.code == code, one
        assert one.stderr == "", one
        assert "Traceback" not in one.stdout, one
    assert ended.json["exit_code"] == code
    assert ended.json["ok"] == (code == ExitCode.OK)
    findings: list[Finding] = ended.json["findings"]
    assert len(ended.stdout.splitlines()) == 1
    lines = shown.stdout.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == [finding["level"] for finding in findings]
    assert lines[-1].split()[2].startswith("warning") or "error" in lines[-1]
    by_check: dict[str, list[Finding]] = {}
    for finding in findings:
        assert finding["level"] == "ok" or finding["advice"] or ";" in finding["found"], finding
        by_check.setdefault(finding["check"], []).append(finding)
    return by_check


def levels(found: dict[str, list[Finding]]) -> dict[str, str]:
    """The checks that found something."""
    return {
        check: finding["level"] for check, findings in found.items() for finding in findings if finding["level"] != "ok"
    }


# --- without a broker -----------------------------------------------------------------------------------------------


def test_a_machine_that_can_run_the_embedded_system_is_fine(celeriac: Celeriac, models: Path) -> None:
    found = examine(celeriac, ExitCode.OK, "--models", models / "models.toml")
    assert set(levels(found)) <= {"spool"}  # as /dev/shm may be small
    assert {"here", "settings", "folder", "redis", "tensorflow", "temporary", "cache", "manifest"} <= set(found)
    assert "digits_saved" in found["manifest"][0]["found"]
    assert celeriac.visible_names() == set()


def test_nothing_at_all_is_told_in_clear_lines(celeriac: Celeriac) -> None:
    found = examine(celeriac, ExitCode.USAGE)
    assert levels(found) == {"manifest": "error"} | {k: v for k, v in levels(found).items() if k == "spool"}
    assert "models.toml cannot be read" in found["manifest"][0]["found"]


def test_each_missing_file_of_the_manifest_is_named(celeriac: Celeriac, models: Path) -> None:
    shutil.copy(models / "digits.keras", celeriac.folder)
    paths = {"digits": "digits.keras", "gone": "gone.keras", "lost": "lost.keras"}
    write_manifest(celeriac.folder, paths)
    found = examine(celeriac, ExitCode.MODEL)["manifest"]
    assert [finding["level"] for finding in found] == ["error", "error"]
    assert ["gone.keras: no such file" in found[0]["found"], "lost.keras: no such" in found[1]["found"]] == [True, True]
    assert str(celeriac.folder / "gone.keras") in found[0]["found"]


def test_what_hides_our_modules_and_settings_that_are_wrong_are_told_together(celeriac: Celeriac, models: Path) -> None:
    (celeriac.folder / "tasks.py").touch()
    write_manifest(celeriac.folder, {"digits": models / "digits.keras"})
    found = examine(celeriac, ExitCode.USAGE, CELERIAC_SPOOL="/no/such/folder", CELERIAC_CACHE_MIB="many")
    told = levels(found)
    assert (told["settings"], told["folder"]) == ("error", "error")
    assert len(found["settings"]) == 2
    assert "tasks.py hides" in found["folder"][0]["found"]


def test_a_machine_without_a_redis_server_is_told_what_to_install(celeriac: Celeriac, models: Path) -> None:
    old = celeriac.root / "bin"
    old.mkdir()
    server = old / "redis-server"
    server.write_text("#!/bin/sh\necho Redis server v=5.0.7 sha=00000000:0\n")
    server.chmod(0o700)
    found = examine(celeriac, ExitCode.USAGE, "--models", models / "models.toml", PATH=f"{old}:/usr/bin:/bin")
    assert levels(found)["redis"] == "error"
    assert "5.0.7" in found["redis"][0]["found"]


# --- Redis ----------------------------------------------------------------------------------------------------------


def test_a_broker_that_is_not_there_is_one_error(celeriac: Celeriac) -> None:
    found = examine(celeriac, ExitCode.BROKER, "--broker", "redis://:secret@127.0.0.1:1/0")
    assert levels(found) == {"broker": "error"}
    assert "redis://:***@127.0.0.1:1/0 cannot be reached" in found["broker"][0]["found"]


def test_a_wrong_password_is_told_and_never_shown(celeriac: Celeriac, tmp_path_factory: pytest.TempPathFactory) -> None:
    server = PasswordRedis(tmp_path_factory.mktemp("s"))
    server.start()
    try:
        found = examine(celeriac, ExitCode.BROKER, "--broker", server.url_with("wrong-password"))
        assert "refuses the user or password" in found["broker"][0]["found"]
        right = celeriac.run("doctor", "--broker", server.url)
        assert right.code == ExitCode.NO_WORKER
        for word in ("wrong-password", server.options[1]):
            assert word not in right.stdout + str(found)
    finally:
        server.stop()


def test_a_broker_without_workers_or_persistence_is_told(
    celeriac: Celeriac, start_redis: Callable[..., RedisServer]
) -> None:
    # Users of least rights are not told whether it saves.
    found = examine(celeriac, ExitCode.NO_WORKER, CELERIAC_BROKER_URL=start_redis(secured=False).url)
    assert levels(found) == {"persistence": "warning", "workers": "error"}
    assert "detached jobs are lost" in found["persistence"][0]["found"]
    assert "celeriac worker" in found["workers"][0]["advice"]
    kept = start_redis("--appendonly", "yes")
    assert levels(examine(celeriac, ExitCode.NO_WORKER, "--broker", kept.url)) == {"workers": "error"}


def test_a_redis_that_throws_keys_away_is_an_error(celeriac: Celeriac, start_redis: Callable[..., RedisServer]) -> None:
    lru = ("--maxmemory-policy", "allkeys-lru")
    found = examine(celeriac, ExitCode.BROKER, "--broker", start_redis("--maxmemory", "200mb", *lru).url)
    assert levels(found)["eviction"] == "error"
    assert found["eviction"][0]["advice"] == "set maxmemory-policy to noeviction"
    unlimited = examine(celeriac, ExitCode.NO_WORKER, "--broker", start_redis(*lru).url)
    assert levels(unlimited)["eviction"] == "warning"
    small = examine(celeriac, ExitCode.NO_WORKER, "--broker", start_redis("--maxmemory", "4mb").url)
    assert levels(small)["memory"] == "warning"


# --- workers --------------------------------------------------------------------------------------------------------


def test_a_good_system_is_fine(celeriac: Celeriac, tmp_path_factory: pytest.TempPathFactory, models: Path) -> None:
    folder = tmp_path_factory.mktemp("s")
    shared = shared_folders(folder)
    with two_workers(folder, (write_manifest(folder, {"digits": models / "digits.keras"}), shared)) as system:
        before = time.monotonic()
        found = examine(celeriac, ExitCode.OK, "--broker", system.url, CELERIAC_SPOOL=shared["CELERIAC_SPOOL"])
        assert time.monotonic() - before < 60 * slowdown()
        assert levels(found) == {"persistence": "warning"}
        assert "w0@" in found["workers"][0]["found"]
        assert found["model sets"][0]["found"] == "one: all workers hold the same"
        assert [finding["found"].split()[0] for finding in found["versions"]] == ["celeriac", "tensorflow", "python"]
        assert all("everywhere" in finding["found"] for finding in found["versions"])
        assert found["clocks"][0]["found"].startswith("2 compared")
        assert "1 child of " in found["devices"][0]["found"]
        assert found["spool"][0]["found"].endswith("shared with 1 worker")
        assert str(folder / "data") in found["data roots"][0]["found"]


def test_workers_with_other_models_and_another_spool_folder_are_told(
    celeriac: Celeriac, tmp_path_factory: pytest.TempPathFactory, models: Path
) -> None:
    folder = tmp_path_factory.mktemp("s")
    first, second = (
        write_manifest(folder, {"digits": models / name}, f"{name}.toml") for name in ("digits.keras", "digits.h5")
    )
    (folder / "other").mkdir()
    shared = shared_folders(folder)
    other = {"CELERIAC_SPOOL": str(folder / "other")}
    with two_workers(folder, (first, shared), (second, other)) as system:
        found = examine(celeriac, ExitCode.OK, "--broker", system.url, CELERIAC_SPOOL=shared["CELERIAC_SPOOL"])
    assert set(levels(found)) == {"persistence", "model", "spool", "data roots"}
    assert found["model"][0]["found"].startswith("2 versions: digits@")
    assert "is not that of w1@" in found["spool"][0]["found"]
    assert "not all of them on w1@" in found["data roots"][0]["found"]


def test_what_is_no_url_is_refused(celeriac: Celeriac) -> None:
    ended: Ended = celeriac.run("doctor", "--broker", "nonsense")
    assert ended.code == ExitCode.USAGE
    assert "not a Redis URL" in ended.stderr
