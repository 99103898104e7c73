"""Redis behind TLS with a private CA: who has the certificates works as ever, who has not is refused by all."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from producer import Client
from tasks.transport.async_connection import connect_async
from tests.acceptance.commands import Celeriac
from tests.manifests import write_manifest
from tests.refusals import check_refused_by_all
from tests.systems import RedisServer, System
from tests.tls import Certificates, TlsProxy
from tests.waiting import wait_until
from worker_config.errors import BrokerError, BrokerRefusedError, ExitCode

ROWS = np.random.default_rng(3).random((200, 4), np.float32)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates.make(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[TlsProxy]:
    redis = RedisServer(tmp_path_factory.mktemp("s")).start()
    with TlsProxy(redis.socket, certificates.server_context()) as proxy:
        yield proxy
    redis.stop()


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("m")
    (folder / "my_functions.py").write_text("def plus(rows):\n    return rows + 1\n")
    return write_manifest(folder, {"plus": "my_functions:plus"})


def reached_by(url: str, folder: Path) -> System:
    """The module's Redis, by this URL."""
    return System(RedisServer(folder, address=url), folder)


async def ping(url: str) -> None:
    async with connect_async(url) as client:
        assert await client.ping()


def test_everything_works_with_a_private_ca_and_client_certificates(
    proxy: TlsProxy, certificates: Certificates, manifest: Path, celeriac: Celeriac
) -> None:
    system = reached_by(f"rediss://localhost:{proxy.port}/1{certificates.options()}", manifest.parent)
    np.save(celeriac.folder / "rows.npy", ROWS)
    try:
        system.start_ready_worker(manifest, 1)
        with Client(system.url) as client:
            np.testing.assert_array_equal(client.predict("plus", ROWS, chunk_rows=20), ROWS + 1)
            asyncio.run(ping(system.url))
            detached = client.attach(client.submit("plus", ROWS, detach=True))
            np.testing.assert_array_equal(detached.result(), ROWS + 1)
        inspected = system.celery("inspect", "stats")
        assert inspected.returncode == 0, inspected.stderr
        assert "1 node online" in inspected.stdout
        predicted = celeriac.run("predict", "plus", "rows.npy", "-o", "out.npy", "--broker", system.url)
        assert predicted.code == ExitCode.OK, predicted.stderr
        np.testing.assert_array_equal(np.load(celeriac.folder / "out.npy"), ROWS + 1)
        examined = celeriac.run("doctor", "--broker", system.url, "--models", str(manifest))
        assert examined.code == ExitCode.OK, examined.stdout
    finally:
        for worker in system.workers:
            worker.stop()


def test_a_server_whose_certificate_nobody_trusts_is_refused_by_all(
    proxy: TlsProxy, certificates: Certificates, manifest: Path, celeriac: Celeriac
) -> None:
    url = f"rediss://localhost:{proxy.port}{certificates.options(with_ca=False)}"
    why = "certificate verify failed.*; name the CA of its certificate as ssl_ca_certs=FILE"
    spoke_tls = proxy.spoke_tls
    check_refused_by_all(url, manifest, celeriac, why, ExitCode.BROKER)
    assert proxy.spoke_tls == spoke_tls


def test_a_certificate_of_another_server_is_refused_unless_the_url_wants_no_check(
    proxy: TlsProxy, certificates: Certificates, tmp_path: Path
) -> None:
    with TlsProxy(proxy.server, certificates.server_context("elsewhere.example.org")) as other:
        url = f"rediss://localhost:{other.port}{certificates.options()}"
        with pytest.raises(BrokerRefusedError, match="certificate is not valid for 'localhost'"):
            Client(url)
        for no_check in ("&ssl_check_hostname=false", "&ssl_cert_reqs=none"):
            Client(url + no_check).close()
            spoke_tls = other.spoke_tls
            inspected = reached_by(url + no_check, tmp_path).celery("inspect", "ping")
            assert "No nodes replied" in inspected.stderr
            assert other.spoke_tls > spoke_tls


def test_who_has_no_certificate_of_its_own_is_told_so(proxy: TlsProxy, certificates: Certificates) -> None:
    url = f"rediss://localhost:{proxy.port}{certificates.options(with_client=False)}"

    def told() -> bool:
        """What a client that still writes sees of it may be an end alone."""
        with pytest.raises(BrokerError) as raised:
            Client(url)
        return "give a certificate that it trusts as ssl_certfile=FILE" in str(raised.value)

    wait_until(told, "the server's reason is seen")
