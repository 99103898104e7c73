"""The doctor's judgement: which facts are fine, which are not, and what is to be done about them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from packaging.specifiers import SpecifierSet

from producer.doctor import broker, folders, machine, workers
from producer.doctor.broker import BrokerFacts
from producer.doctor.collect_facts import look_at, read_settings, server_version, stray_module
from producer.doctor.findings import Finding, Level, error, exit_code, lines, ok, raised, values, warning
from producer.doctor.folders import FolderFacts
from producer.doctor.machine import ManifestFacts
from producer.doctor.workers import WorkerState
from tasks.protocol.messages import MESSAGE_VERSION
from tasks.protocol.records import ModelInfo, SlotRecord, WorkerFacts
from worker_config.broker import queue_of
from worker_config.errors import ConfigError, ExitCode, ModelLoadError

MIB = 2**20
GOOD = BrokerFacts("redis://h:6379/0", version="7.2.4", compatible="7.2.4", appends=True)
HERE = {"celeriac": "0.1.0", "python": "3.11.7", "tensorflow": "2.21.0"}


def level_of(findings: list[Finding], check: str) -> Level:
    (finding,) = (finding for finding in findings if finding.check == check)
    assert finding.found
    assert finding.level is Level.OK or finding.advice
    return finding.level


def worker(
    name: str,
    slots: int = 1,
    facts: WorkerFacts | None = None,
    roots: tuple[str, ...] = (),
    reads: tuple[str, ...] = (),
    **digests: str,
) -> WorkerState:
    models = [ModelInfo(model, digest, 64, [], [], 0.0, 0) for model, digest in digests.items()]
    held = [
        SlotRecord(
            name,
            number,
            1,
            0.0,
            queue_of(digests),
            models,
            data_roots=list(roots),
            reads=list(reads),
            message_version=MESSAGE_VERSION,
        )
        for number in range(slots)
    ]
    return WorkerState(name, held, facts)


# --- findings -------------------------------------------------------------------------------------------------------


def test_the_exit_code_is_that_of_the_first_error() -> None:
    no_worker = error("workers", "none", "start one", ExitCode.NO_WORKER)
    usage = error("spool", "no", "mend it", ExitCode.USAGE)
    assert exit_code([ok("a", "b"), warning("c", "d", "e"), no_worker, usage]) is ExitCode.NO_WORKER
    assert exit_code([ok("a", "b"), warning("c", "d", "e")]) is ExitCode.OK
    assert exit_code([raised("manifest", ModelLoadError("gone")), usage]) is ExitCode.MODEL


def test_each_finding_is_a_line_and_the_last_one_counts() -> None:
    found = [ok("redis", "Redis 7"), warning("eviction", "allkeys-lru", "set it")]
    assert lines(found).splitlines() == [
        "ok       redis        Redis 7",
        "warning  eviction     allkeys-lru; set it",
        "no errors, 1 warning",
    ]
    assert values(found)["findings"][1] == {
        "check": "eviction",
        "level": "warning",
        "found": "allkeys-lru",
        "advice": "set it",
        "exit_code": 0,
    }
    assert (values(found)["ok"], values(found)["warnings"], values(found)["errors"]) == (True, 1, 0)


# --- Redis ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "check", "level"),
    [
        ({}, "broker", Level.OK),
        ({"role": "slave"}, "broker", Level.ERROR),
        ({}, "redis", Level.OK),
        ({"compatible": "6.2.0"}, "redis", Level.OK),
        ({"compatible": "6.0.16"}, "redis", Level.ERROR),
        ({"compatible": "255.255.255"}, "redis", Level.OK),
        ({"compatible": ""}, "redis", Level.WARNING),
        ({}, "persistence", Level.OK),
        ({"appends": False, "saves": True}, "persistence", Level.WARNING),
        ({"appends": False, "saves": False}, "persistence", Level.WARNING),
        ({"appends": False, "saves": None}, "persistence", Level.WARNING),
        ({"refuses_writes": True}, "persistence", Level.WARNING),
        ({}, "eviction", Level.OK),
        ({"policy": "allkeys-lru"}, "eviction", Level.WARNING),
        ({"policy": "allkeys-lru", "max_memory": 1}, "eviction", Level.ERROR),
        ({"policy": "volatile-ttl", "max_memory": 1}, "eviction", Level.ERROR),
        ({}, "memory", Level.OK),
        ({"max_memory": 1024 * MIB, "used_memory": 10 * MIB}, "memory", Level.OK),
        ({"max_memory": 100 * MIB, "used_memory": 70 * MIB}, "memory", Level.WARNING),
        ({"max_memory": 100 * MIB, "used_memory": 90 * MIB}, "memory", Level.WARNING),
        ({"max_memory": 100 * MIB, "used_memory": 100 * MIB}, "memory", Level.ERROR),
    ],
)
def test_a_server_is_judged(change: dict[str, Any], check: str, level: Level) -> None:
    findings = broker.check_broker(replace(GOOD, **change))
    assert level_of(findings, check) is level
    assert exit_code(findings) == (ExitCode.BROKER if level is Level.ERROR else ExitCode.OK)


def test_what_a_server_says_is_read() -> None:
    told = {"redis_version": "7.2.4", "valkey_version": "8.0.1", "role": "master", "aof_enabled": 0, "maxmemory": 5}
    facts = broker.read("unix:///s", told, "3600 1", 0.001, 0.5)
    assert (facts.name, facts.version, facts.compatible) == ("Valkey", "8.0.1", "7.2.4")
    assert (facts.saves, facts.appends, facts.max_memory, facts.clock_ahead) == (True, False, 5, 0.5)
    assert broker.read("unix:///s", {}, "", 0, 0).saves is False
    assert broker.read("unix:///s", {}, None, 0, 0).saves is None
    assert broker.read("unix:///s", {"rdb_last_bgsave_status": "err"}, None, 0, 0).refuses_writes
    assert all(finding.level is not Level.ERROR for finding in broker.check_broker(broker.read("u", {}, None, 0, 0)))


# --- workers --------------------------------------------------------------------------------------------------------


def test_no_worker_is_an_error_and_so_is_one_that_holds_nothing() -> None:
    for states in ([], [worker("a", slots=0)]):
        findings = workers.check_workers(states)
        assert level_of(findings, "workers") is Level.ERROR
        assert exit_code(findings) is ExitCode.NO_WORKER


def test_workers_that_drain_are_told_how_they_come_back() -> None:
    drained = worker("w1@h", 0, WorkerFacts(draining=True))
    (found,) = workers.check_workers([drained])
    assert (found.level, found.exit_code) == (Level.ERROR, ExitCode.NO_WORKER)
    assert str(found).endswith("w1@h drains and takes no chunks; `celery -A tasks control resume` ends that")
    found = workers.check_workers([drained, worker("w2@h", 0, WorkerFacts(draining=True))])[0]
    assert found.found == "w1@h, w2@h drain and take no chunks"
    ok_, *_, told = workers.check_workers([drained, worker("w2@h", digits="1")])
    assert (ok_.level, ok_.found) == (Level.OK, "w2@h with 1 slot")
    assert (told.level, told.found) == (Level.WARNING, "w1@h drains and takes no chunks")


def test_workers_that_hold_the_same_are_fine() -> None:
    findings = workers.check_workers([worker("a", 2, digits="d" * 64), worker("b", digits="d" * 64)])
    assert [finding.level for finding in findings] == [Level.OK] * 3
    assert [finding.found for finding in findings] == [
        "a with 2 slots, b with 1 slot",
        "digits@dddddddd in 3 slots of a, b",
        "one: all workers hold the same",
    ]


def test_versions_of_a_model_and_sets_of_models_are_told_apart() -> None:
    findings = workers.check_workers([worker("a", 2, digits="d" * 64, pair="p" * 64), worker("b", digits="e" * 64)])
    digits, pair = (finding for finding in findings if finding.check == "model")
    assert (digits.level, pair.level) == (Level.WARNING, Level.OK)
    assert digits.found == "2 versions: digits@dddddddd in 2 slots of a, digits@eeeeeeee in 1 slot of b"
    assert "reload_models" in digits.advice
    assert findings[-1].found == "2: digits,pair (2 slots), digits (1 slot)"
    assert level_of(workers.check_workers([worker("a", digits="d"), worker("b", slots=0)]), "workers") is Level.WARNING


def test_names_are_short_where_they_differ() -> None:
    names = ["celery@h:1a2b", "celery@h:3c4d", "second@h:5e6f"]
    assert list(workers.short_names(names).values()) == ["celery@h:1a2b", "celery@h:3c4d", "second@h"]


def test_versions_are_compared_with_ours_as_far_as_they_matter() -> None:
    same = WorkerFacts(versions={**HERE, "python": "3.11.9"})
    other = WorkerFacts(versions={**HERE, "celeriac": "0.2.0", "tensorflow": "2.20.0"})
    assert {finding.level for finding in workers.check_versions(HERE, [worker("a", facts=same)])} == {Level.OK}
    findings = workers.check_versions(HERE, [worker("a", facts=same), worker("b", facts=other)])
    assert [finding.level for finding in findings] == [Level.WARNING, Level.WARNING, Level.OK]
    assert findings[0].found == "celeriac 0.1.0 here, a, 0.2.0 on b"
    only_there = workers.check_versions({"celeriac": "0.1.0", "python": "3.11.7"}, [worker("a", facts=same)])
    assert {finding.level for finding in only_there} == {Level.OK}
    (silent,) = workers.check_versions(HERE, [worker("old")])
    assert (silent.level, "old has not told" in silent.found) == (Level.WARNING, True)


def test_more_threads_than_cores_are_told() -> None:
    facts = WorkerFacts(children=4, threads=1, cores=4)
    assert level_of(workers.check_threads([worker("a", facts=facts)]), "devices") is Level.OK
    crowded = WorkerFacts(children=4, threads=4, cores=4)
    assert level_of(workers.check_threads([worker("a", facts=crowded)]), "devices") is Level.WARNING
    (finding,) = workers.check_threads([worker("a", facts=WorkerFacts(children=1, threads=2, cores=2, gpus=["0"]))])
    assert finding.found == "a: 1 child of 2 threads on 2 cores, GPUs 0"


@pytest.mark.parametrize(
    ("here", "there", "level", "told"),
    [
        (0.3, -1.9, Level.OK, "2 compared with that of Redis, at most 1.9 s apart"),
        (2.5, 0.0, Level.WARNING, "this machine is 2.5 s ahead of Redis's machine"),
        (0.0, -70.0, Level.WARNING, "a is 70.0 s behind Redis's machine"),
    ],
)
def test_clocks_may_be_two_seconds_apart(here: float, there: float, level: Level, told: str) -> None:
    finding = workers.check_clocks(here, [worker("a", facts=WorkerFacts(clock_ahead=there)), worker("silent")])
    assert (finding.level, finding.found) == (level, told)


# --- folders --------------------------------------------------------------------------------------------------------

SPOOL = FolderFacts(Path("/s"), free=1024 * MIB)


@pytest.mark.parametrize(
    ("here", "seen", "level"),
    [
        (None, {"a": None}, Level.OK),
        (None, {"a": False}, Level.WARNING),
        (SPOOL, {"a": True, "b": True}, Level.OK),
        (SPOOL, {"a": True, "b": False}, Level.WARNING),
        (SPOOL, {"a": None}, Level.WARNING),
        (replace(SPOOL, writable=False), {"a": True}, Level.ERROR),
        (replace(SPOOL, free=MIB), {"a": True}, Level.WARNING),
    ],
)
def test_a_spool_folder_is_shared_or_not(here: FolderFacts | None, seen: dict[str, bool | None], level: Level) -> None:
    assert level_of([folders.check_spool(here, seen)], "spool") is level


def test_data_roots_are_the_same_everywhere() -> None:
    both = [worker("a", roots=("/data",), digits="d"), worker("b", roots=("/data",), digits="d")]
    assert folders.check_data_roots(both, {"/data"}).level is Level.OK
    assert folders.check_data_roots(both, set()).level is Level.WARNING
    assert folders.check_data_roots([both[0], worker("c", digits="d")], {"/data"}).level is Level.WARNING
    assert folders.check_data_roots([worker("c", digits="d")], set()).level is Level.OK


def test_workers_that_cannot_read_what_their_roots_have_are_told() -> None:
    roots = ("/data", "s3://rows")
    able = worker("a", roots=roots, reads=("parquet", "objects"), digits="d")
    told = folders.check_data_roots([able], set(roots))
    assert told.level is Level.OK
    assert "(npy, objects, parquet)" in told.found
    told = folders.check_data_roots([able, worker("b", roots=roots, reads=("parquet",), digits="d")], set(roots))
    assert told.level is Level.WARNING
    assert "s3://rows, of which b can read no object" in told.found
    assert "celeriac[objects]" in str(told.advice)


def test_the_embedded_systems_folders_are_judged() -> None:
    assert folders.check_memory_folder(SPOOL, 1024 * MIB).level is Level.OK
    assert folders.check_memory_folder(SPOOL, 1025 * MIB).level is Level.WARNING
    assert folders.check_memory_folder(replace(SPOOL, exists=False), 1).level is Level.WARNING
    assert folders.check_temporary(SPOOL).level is Level.OK
    assert folders.check_temporary(replace(SPOOL, free=1)).level is Level.WARNING
    assert folders.check_temporary(replace(SPOOL, writable=False)).exit_code is ExitCode.USAGE
    assert folders.check_cache(SPOOL).level is Level.OK
    assert folders.check_cache(replace(SPOOL, writable=False)).level is Level.WARNING


def test_a_folder_that_is_yet_to_be_made_is_judged_by_the_one_above(tmp_path: Path) -> None:
    facts = look_at(tmp_path / "a" / "b")
    assert (facts.exists, facts.writable, facts.free > 0) == (False, True, True)
    (tmp_path / "file").touch()
    assert not look_at(tmp_path / "file" / "x").writable


# --- this machine ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "embedded", "level"),
    [
        ("2.21.0", True, Level.OK),
        ("2.22.0", True, Level.WARNING),
        ("2.20.1", False, Level.WARNING),
        ("mine", True, Level.WARNING),
        (None, True, Level.ERROR),
        (None, False, Level.OK),
    ],
)
def test_tensorflow_is_needed_where_models_run(version: str | None, embedded: bool, level: Level) -> None:
    finding = machine.check_tensorflow(version, SpecifierSet(">=2.21,<2.22"), embedded=embedded)
    assert level_of([finding], "tensorflow") is level


def test_a_machine_with_a_runtime_alone_serves_what_was_built_elsewhere() -> None:
    finding = machine.check_tensorflow(None, SpecifierSet(""), embedded=True, runtime="2.3.0")
    assert (finding.level, "LiteRT 2.3.0" in finding.found) == (Level.OK, True)


def test_workers_with_and_without_tensorflow_are_told_of() -> None:
    whole = WorkerFacts(versions=HERE)
    bare = WorkerFacts(versions={name: one for name, one in HERE.items() if name != "tensorflow"})
    assert {one.level for one in workers.check_versions(HERE, [worker("a", facts=bare)])} == {Level.OK}
    told = workers.check_versions(HERE, [worker("a", facts=whole), worker("b", facts=bare)])
    assert [one.found for one in told if one.level is Level.WARNING] == ["tensorflow is not installed on b"]


def test_the_supported_range_is_that_of_our_own_package() -> None:
    required = ["celery<5.8,>=5.7", "tensorflow<2.22,>=2.21; extra == 'worker'", "?"]
    assert "2.21.3" in machine.supported(required)
    assert "2.22.0" not in machine.supported(required)
    assert "9.9" in machine.supported([])


@pytest.mark.parametrize(
    ("version", "level"), [("6.2.14", Level.OK), ("8.0.1", Level.OK), ("5.0.7", Level.ERROR), ("", Level.ERROR)]
)
def test_the_server_of_the_embedded_system_is_new_enough(version: str, level: Level) -> None:
    assert level_of([machine.check_redis_server("/usr/bin/redis-server", version)], "redis") is level


def test_the_version_of_a_server_is_read(tmp_path: Path) -> None:
    server = tmp_path / "redis-server"
    server.write_text("#!/bin/sh\necho Redis server v=7.2.4 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64\n")
    server.chmod(0o700)
    assert server_version(str(server)) == "7.2.4"
    assert server_version(str(tmp_path / "none")) == ""


def test_a_manifest_is_needed_where_models_run_or_somebody_named_it(tmp_path: Path) -> None:
    gone = ManifestFacts(tmp_path / "models.toml", asked_for=False, errors=[ConfigError("cannot be read")])
    assert machine.check_manifest(gone, embedded=False)[0].level is Level.OK
    for facts, embedded in ((gone, True), (replace(gone, asked_for=True), False)):
        (finding,) = machine.check_manifest(facts, embedded=embedded)
        assert (finding.level, finding.exit_code) == (Level.ERROR, ExitCode.USAGE)
    broken = ManifestFacts(
        tmp_path, asked_for=False, models=["a", "b"], errors=[ModelLoadError("a"), ModelLoadError("b")]
    )
    assert [finding.exit_code for finding in machine.check_manifest(broken, embedded=False)] == [ExitCode.MODEL] * 2
    fine = ManifestFacts(tmp_path, asked_for=False, models=["a"])
    assert [finding.level for finding in machine.check_manifest(fine, embedded=True)] == [Level.OK]


def test_a_stray_module_is_an_error_where_a_worker_is_started(tmp_path: Path) -> None:
    assert machine.check_shadow(stray_module(tmp_path), embedded=True).level is Level.OK
    (tmp_path / "tasks.py").touch()
    stray = stray_module(tmp_path)
    assert machine.check_shadow(stray, embedded=True).exit_code is ExitCode.USAGE
    assert machine.check_shadow(stray, embedded=False).level is Level.WARNING


def test_settings_are_read_without_those_that_are_wrong() -> None:
    environ = {"CELERIAC_SPOOL": "/no/such", "CELERIAC_CACHE_MIB": "many", "CELERIAC_DETACHED_MIB": "7", "HOME": "/"}
    settings, errors = read_settings(environ)
    assert (settings.spool, settings.detached_mib) == (None, 7)
    assert ["CELERIAC_SPOOL" in str(errors[0]), "CELERIAC_CACHE_MIB" in str(errors[1])] == [True, True]
    assert [finding.exit_code for finding in machine.check_settings(errors)] == [ExitCode.USAGE] * 2
    assert machine.check_settings([])[0].level is Level.OK
