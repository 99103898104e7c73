"""A primary that dies under load costs time, no row and no worker, where Sentinels name another one."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from producer import Client
from tasks.protocol import keys
from tasks.transport.async_connection import connect_async
from tests.acceptance.commands import Celeriac
from tests.forms import LONG
from tests.manifests import write_manifest
from tests.planted import check_not_in
from tests.sentinels import FAILOVERS, NAME, Guarded
from tests.systems import RedisServer, System
from tests.tls import Certificates
from tests.waiting import wait_until
from worker_config.errors import BrokerError, BrokerRefusedError, ExitCode

SEEDS = 30 if LONG else 1
CHUNKS = 300
ROWS = np.random.default_rng(3).random((CHUNKS * 4, 4), np.float32)


@pytest.fixture
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("g")
    guarded = Guarded(folder, Certificates.make(folder))
    try:
        yield guarded.start()
    finally:
        guarded.stop()


@pytest.fixture
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("s")
    (folder / "my_functions.py").write_text("def plus(rows):\n    return rows + 1\n")
    return write_manifest(folder, {"plus": "my_functions:plus"})


@pytest.mark.parametrize("seed", range(SEEDS))
def test_failovers_under_load_cost_no_row_and_no_worker(
    guarded: Guarded, manifest: Path, celeriac: Celeriac, seed: int
) -> None:
    rng = random.Random(seed)  # noqa: S311
    kinds, with_tls = rng.sample(FAILOVERS, 3) if LONG else ["killed"], seed % 3 == 0
    url = guarded.url(with_tls=with_tls)
    system = System(RedisServer(manifest.parent, address=url), manifest.parent)
    try:
        worker = system.start_ready_worker(manifest, 2)
        children = {slot.pid for slot in system.slots()}
        with Client(url) as client:
            for number, kind in enumerate(kinds):
                job = client.submit("plus", ROWS, chunk_rows=4)
                least = int(rng.uniform(0.1, 0.6) * len(ROWS))
                wait_until(lambda job=job, least=least: job.ledger.predicted > least, "the job is in the middle")
                with guarded.failover(kind):
                    if number == 0:  # the first one that everybody asks
                        guarded.sentinels[0].kill()
                        guarded.sentinels[0].wait()
                    assert job.wait(timeout_seconds=300), f"{kind}: the job hangs: {job.ledger}; {worker.output()}"
                    np.testing.assert_array_equal(job.result(), ROWS + 1)
                    job.ledger.check()
                    assert job.ledger.predicted == len(ROWS)
                    # What is written to an old primary that is back for a moment is lost, and nobody can know.
                    guarded.wait_until_agreed()
                    detached = client.attach(client.submit("plus", ROWS[:40], chunk_rows=4, detach=True))
                    assert detached.wait(timeout_seconds=120), f"{kind}: a detached job hangs: {worker.output()}"
                    np.testing.assert_array_equal(detached.result(), ROWS[:40] + 1)
                guarded.wait_until_whole()
        assert worker.process.poll() is None, worker.output()
        wait_until(
            lambda: {slot.pid for slot in system.slots()} == children, "all children are there, of which none died"
        )
        # What is asked while a worker connects again is lost.
        stats = wait_until(lambda: system.celery("inspect", "stats").stdout, "the worker answers")
        examined = celeriac.run("doctor", "--broker", url, "--models", str(manifest))
        assert examined.code == ExitCode.OK, examined.stdout
        check_not_in({"stats": stats, "doctor": examined.stdout, "the worker's log": worker.output()})
        spoke_tls = [proxy.spoke_tls for proxy in guarded.sentinel_proxies[1:]]
        assert any(spoke_tls) == with_tls
    finally:
        for worker in system.workers:
            worker.stop()


@pytest.mark.parametrize("with_tls", [False, True], ids=["plain", "TLS"])
def test_an_event_loop_finds_the_new_primary_with_the_client_that_it_has(guarded: Guarded, with_tls: bool) -> None:
    async def role() -> bytes:
        await client.persist(keys.PROBE)  # which a replica refuses
        return (await client.execute_command("ROLE"))[0]

    client = connect_async(guarded.url(with_tls=with_tls))
    with asyncio.Runner() as runner:
        assert runner.run(role()) == b"master"
        with guarded.failover("killed"):
            guarded.wait_until_agreed()
            assert runner.run(role()) == b"master"
        runner.run(client.aclose())


def test_what_sentinels_do_not_know_or_do_not_tell_is_said(guarded: Guarded) -> None:
    url = guarded.url(with_tls=False)
    with pytest.raises(BrokerError, match="no Sentinel knows a primary 'other' that is up") as unknown:
        Client(url.replace(f"/{NAME}/", "/other/"))
    with pytest.raises(BrokerRefusedError, match="that of Sentinels, sentinel_password: ") as refused:
        Client(url.partition("?")[0])
    single = f"redis://127.0.0.1:{guarded.sentinel_proxies[0].port}?{url.partition('?sentinel_')[2]}"
    with pytest.raises(BrokerRefusedError, match="is a Sentinel; write sentinel://"):
        Client(single)
    for sentinel in guarded.sentinels:
        sentinel.kill()
        sentinel.wait()
    with pytest.raises(BrokerError, match=r"cannot be reached \(no Sentinel knows") as away:
        Client(url)
    check_not_in({"unknown": str(unknown.value), "refused": str(refused.value), "away": str(away.value)})
