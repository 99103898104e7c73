"""A Redis that is there and does not do its part: every job is right at the end, and every worker lives."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import redis

from producer import Client, Job
from tasks.protocol.rights import ROLES
from tasks.transport import connection
from tests.forms import in_long_form
from tests.held import holding, write_held_models
from tests.manifests import write_manifest
from tests.redis_binaries import SERVERS, binary_of
from tests.systems import SECURED, RedisServer, System, serving
from tests.waiting import wait_until

ROWS = np.arange(240, dtype=np.float32).reshape(60, 4)
# Which is held in the middle of a job.
HELD = ROWS[30, 0]

State = Callable[[System, redis.Redis], Any]


@pytest.fixture
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("s")
    with serving(folder, write_manifest(folder, write_held_models(folder))) as system:
        yield system


@contextmanager
def a_replica(_: System, server: redis.Redis) -> Iterator[str]:
    """As an old primary is after a failover, and a managed one while it is resized."""
    server.replicaof("127.0.0.1", 1)
    yield "takes no writes"
    server.replicaof("NO", "ONE")


@contextmanager
def that_cannot_save(system: System, server: redis.Redis) -> Iterator[str]:
    in_the_way = system.folder / "dump.rdb"
    in_the_way.mkdir()
    (in_the_way / "file").touch()
    server.config_set("save", "1000 1000")
    server.bgsave()
    wait_until(lambda: server.info("persistence")["rdb_last_bgsave_status"] == "err", "it could not save")
    yield "takes no writes"
    (in_the_way / "file").unlink()
    in_the_way.rmdir()
    server.config_set("save", "")
    server.bgsave()
    wait_until(lambda: server.info("persistence")["rdb_last_bgsave_status"] == "ok", "it could save")


@contextmanager
def that_misses_replicas(_: System, server: redis.Redis) -> Iterator[str]:
    """As an old primary is that comes back after a failover, where it is told to be careful."""
    server.config_set("min-replicas-to-write", 1)
    yield "takes no writes"
    server.config_set("min-replicas-to-write", 0)


@contextmanager
def that_runs_a_script(system: System, server: redis.Redis) -> Iterator[str]:
    """Somebody else's, without end."""
    server.config_set("lua-time-limit", 100)
    with ThreadPoolExecutor(1) as pool, system.admin(retries=0, timeout_seconds=600) as other:
        script = pool.submit(other.eval, "while true do end", 0)
        yield "takes no writes"
        server.script_kill()
        with pytest.raises(redis.ResponseError, match="killed"):
            script.result()


@contextmanager
def that_has_taken_rights_away(system: System, server: redis.Redis) -> Iterator[str]:
    users = {role.name: system.redis.rules_of(role) for role in ROLES} if SECURED else {"default": ["+@all"]}
    for user in users:
        server.execute_command("ACL", "SETUSER", user, "-@list", "-@write")
    yield "refuses this user a right"
    for user, rules in users.items():
        server.execute_command("ACL", "SETUSER", user, *rules)
    server.acl_log_reset()


@contextmanager
def with_no_room_for_clients(_: System, server: redis.Redis) -> Iterator[str]:
    server.config_set("maxclients", 1)
    for one in server.client_list():
        if one["id"] != str(server.client_id()):
            server.client_kill_filter(_id=one["id"])
    yield "cannot be reached"
    server.config_set("maxclients", 1000)


@contextmanager
def standing_still(system: System, _: redis.Redis) -> Iterator[str]:
    os.kill(system.redis.pid, signal.SIGSTOP)
    yield "Redis does not answer"
    os.kill(system.redis.pid, signal.SIGCONT)


@contextmanager
def replaced(system: System, _: redis.Redis) -> Iterator[str]:
    """By another version, or program, that has none of the data."""
    system.redis.stop()
    yield "cannot be reached"
    programs = [program for server in SERVERS if (program := binary_of(server)) != system.redis.binary]
    system.redis.binary = random.choice([program for program in programs if program])  # noqa: S311
    system.redis.start()


STATES = [
    a_replica,
    that_cannot_save,
    that_misses_replicas,
    that_runs_a_script,
    that_has_taken_rights_away,
    with_no_room_for_clients,
]


@pytest.mark.parametrize("state", STATES)
def test_a_job_waits_for_a_redis_that_refuses_and_goes_on(
    system: System, client: Client, state: State, caplog: pytest.LogCaptureFixture
) -> None:
    with system.admin(retries=0) as server, holding(system.folder, HELD) as let_go:
        job = client.submit("held", ROWS, chunk_rows=2)
        wait_until(lambda: job.ledger.predicted >= 30, "half of it is done")
        with state(system, server) as what:
            let_go()
            wait_until(lambda: f"job {job.id} waits: " in caplog.text, "the job says that it waits")
            assert what in caplog.text
            assert system.workers[0].process.poll() is None
    check_whole(system, job)
    assert system.workers[0].process.poll() is None, system.workers[0].output()
    np.testing.assert_array_equal(client.predict("held", ROWS[:4]), ROWS[:4] * 2)


def test_a_unix_socket_that_gives_no_sign_of_life_is_told_as_what_it_is(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path_factory.mktemp("s")
    system = System(RedisServer(folder, secured=False).start(), folder)
    with system.admin() as server:
        monkeypatch.setattr(connection, "HEALTH_CHECK_SECONDS", 1e-6)
        with system.admin(retries=0) as client:
            client.ping()
            with that_cannot_save(system, server), pytest.raises(redis.exceptions.ReadOnlyError):
                client.ping()
    system.stop()


@pytest.mark.parametrize("seconds", [1, *(pytest.param(seconds, marks=in_long_form) for seconds in (35, 60, 300))])
def test_a_redis_that_stands_still_costs_time_alone(
    system: System, client: Client, seconds: int, caplog: pytest.LogCaptureFixture
) -> None:
    with system.admin() as server, holding(system.folder, HELD) as let_go:
        job = client.submit("held", ROWS, chunk_rows=2)
        wait_until(lambda: job.ledger.predicted >= 30, "half of it is done")
        with standing_still(system, server):
            let_go()
            assert not job.wait(timeout_seconds=seconds)
    check_whole(system, job)
    assert system.workers[0].process.poll() is None
    if seconds > 11:
        assert "Redis does not answer" in caplog.text


@in_long_form
@pytest.mark.parametrize("seed", range(30))
def test_whatever_becomes_of_redis_under_load_costs_time_alone(system: System, client: Client, seed: int) -> None:
    random.seed(seed)
    rows = np.arange(8_000, dtype=np.float32).reshape(2_000, 4)
    children = {slot.pid for slot in system.slots()}
    for state in random.sample([*STATES, standing_still, replaced], 4):
        job = client.submit("held", rows, chunk_rows=4)
        least = random.randrange(1_500)  # noqa: S311
        wait_until(lambda job=job, least=least: job.ledger.predicted > least, "the job is in the middle")
        with system.admin(retries=0) as server, state(system, server):
            job.wait(timeout_seconds=random.uniform(0, 15))  # noqa: S311
        check_whole(system, job, rows)
    assert system.workers[0].process.poll() is None, system.workers[0].output()
    wait_until(lambda: {slot.pid for slot in system.slots()} == children, "all children are there, of which none died")


def check_whole(system: System, job: Job, rows: np.ndarray = ROWS) -> None:
    assert job.wait(timeout_seconds=120), f"the job hangs: {job.progress()}; {job.ledger}; {_worries(system)}"
    np.testing.assert_array_equal(job.result(), rows * 2)
    job.ledger.check()
    assert job.ledger.predicted == len(rows)


def _worries(system: System) -> str:
    """Of the worker's log, what is no news of a chunk that went well."""
    return "\n".join(line for line in system.workers[0].output().splitlines() if "INFO" not in line)[-9_000:]
