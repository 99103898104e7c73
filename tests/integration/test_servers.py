"""Every Redis or Valkey that is installed here does: those of the extra `servers`, and those on the PATH.

Everybody logs in as a user of the least rights, which servers check and word in their own ways.
"""

from __future__ import annotations

import numpy as np
import pytest

from producer import Client
from tasks.protocol.rights import PRODUCER
from tests.acceptance.commands import Celeriac
from tests.manifests import write_manifest
from tests.redis_binaries import SERVERS, binary_of
from tests.systems import RedisServer, System
from worker_config.errors import ExitCode

ROWS = np.random.default_rng(3).random((200, 4), np.float32)


@pytest.mark.parametrize("server", SERVERS)
def test_a_server_does_all_that_is_asked_of_it(server: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    binary = binary_of(server)
    if binary is None:
        pytest.skip(f"{server} is not installed")
    folder = tmp_path_factory.mktemp("s")
    (folder / "my_functions.py").write_text("def plus(rows):\n    return rows + 1\n")
    manifest = write_manifest(folder, {"plus": "my_functions:plus"})
    system = System(RedisServer(folder, binary=binary, least_rights=True).start(), folder)
    celeriac = Celeriac(tmp_path_factory.mktemp("c"))
    try:
        worker = system.start_ready_worker(manifest, 1)
        with Client(system.redis.url_as(PRODUCER)) as client:
            for store in ("redis", None):
                rows = client.predict("plus", ROWS, chunk_rows=20, store=store)
                np.testing.assert_array_equal(rows, ROWS + 1)
            detached = client.attach(client.submit("plus", ROWS, detach=True))
            np.testing.assert_array_equal(detached.result(), ROWS + 1)
        inspected = system.celery("inspect", "ping")
        assert inspected.returncode == 0, inspected.stderr
        examined = celeriac.run("doctor", "--broker", system.redis.url_as(PRODUCER), "--models", str(manifest))
        assert examined.code == ExitCode.OK, examined.stdout
        assert ("Valkey" if "valkey" in server else "Redis") in examined.stdout
        assert worker.process.poll() is None, worker.output()
    finally:
        celeriac.stop()
        system.stop()
