"""What URLs may say of Redis is meant alike by all; what cannot work is refused by all; a password is shown by none."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import redis

from producer import Client
from tests.acceptance.commands import Celeriac
from tests.manifests import write_manifest
from tests.planted import PASSWORD, QUOTED, check_not_in, shown_by_commands, shown_by_flower
from tests.refusals import check_refused_by_all
from tests.systems import RedisServer, System
from tests.waiting import wait_until
from worker_config.errors import BrokerRefusedError, ExitCode

ROWS = np.random.default_rng(3).random((200, 4), np.float32)
USER = "somebody"
OPTIONS = ("--user", USER, "on", f">{PASSWORD}", "~*", "&*", "+@all", "--user", "default", "off")


@pytest.fixture
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("s")
    (folder / "my_functions.py").write_text("def plus(rows):\n    return rows + 1\n")
    return write_manifest(folder, {"plus": "my_functions:plus"})


@pytest.fixture
def server(manifest: Path) -> Iterator[RedisServer]:
    """One with a user of that password alone."""
    server = RedisServer(manifest.parent, OPTIONS, secured=False).start()
    yield server
    server.stop()


def test_a_socket_with_a_user_and_a_password_works_for_all_who_show_none(
    server: RedisServer, manifest: Path, celeriac: Celeriac
) -> None:
    server.address = f"unix://{server.socket}?username={USER}&password={QUOTED}&db=5"
    system = System(server, manifest.parent)
    np.save(celeriac.folder / "rows.npy", ROWS)
    try:
        worker = system.start_ready_worker(manifest, 1, "-l", "debug")
        with Client(server.url) as client:
            np.testing.assert_array_equal(client.predict("plus", ROWS, chunk_rows=20), ROWS + 1)
            detached = client.attach(client.submit("plus", ROWS, detach=True))
            np.testing.assert_array_equal(detached.result(), ROWS + 1)
        predicted = celeriac.run("predict", "plus", "rows.npy", "-o", "out.npy", "--broker", server.url)
        assert predicted.code == ExitCode.OK, predicted.stderr
        page = celeriac.run("report", detached.id, "-o", "page.html", "--broker", server.url)
        assert page.code == ExitCode.OK, page.stderr
        shown = {
            "predict": predicted.stdout + predicted.stderr,
            "the report": (celeriac.folder / "page.html").read_text() + page.stdout + page.stderr,
            **shown_by_commands(system, celeriac, manifest),
            **shown_by_flower(system),
        }
        with redis.Redis(unix_socket_path=str(server.socket), username=USER, password=PASSWORD, db=5) as client_of_5:
            assert set(client_of_5.info("keyspace")) == {"db5"}
        server.stop()
        wait_until(lambda: "Cannot connect to" in worker.output(), "the worker has lost Redis")
        lost = celeriac.run("jobs", "--broker", server.url)
        assert lost.code == ExitCode.BROKER
        check_not_in({**shown, "jobs": lost.stderr, "the worker's log": worker.output()})
    finally:
        system.stop()


def test_options_that_cannot_work_are_refused_by_all(manifest: Path, celeriac: Celeriac) -> None:
    why = "has an unknown option 'ssl_foo'; there are db, "
    check_refused_by_all("rediss://localhost:1?ssl_foo=1", manifest, celeriac, why, ExitCode.USAGE)


def test_a_wrong_password_is_refused_by_all_who_show_it_to_nobody(
    server: RedisServer, manifest: Path, celeriac: Celeriac
) -> None:
    url = f"unix://{server.socket}?username={USER}&password=wrong"
    why = f"{re.escape(str(server.socket))}.* refuses the user or password"
    check_refused_by_all(url, manifest, celeriac, why, ExitCode.BROKER)


def test_a_cluster_is_refused_by_all(manifest: Path, celeriac: Celeriac) -> None:
    server = RedisServer(manifest.parent, ("--cluster-enabled", "yes")).start()
    try:
        check_refused_by_all(
            server.url, manifest, celeriac, "is a cluster, with which Celery does not", ExitCode.BROKER
        )
    finally:
        server.stop()


def test_a_cluster_is_found_by_the_older_protocol_too(manifest: Path) -> None:
    from tasks.transport.connection import _log_in, broker_errors

    server = RedisServer(manifest.parent, ("--cluster-enabled", "yes")).start()
    try:
        with (
            pytest.raises(BrokerRefusedError, match="is a cluster"),
            broker_errors(server.url),
            redis.Redis(unix_socket_path=str(server.socket), protocol=2, redis_connect_func=_log_in) as client,
        ):
            client.ping()
    finally:
        server.stop()
