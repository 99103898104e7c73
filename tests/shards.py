"""Several Redis servers as shards of one system, with workers that choose among them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tasks.protocol.rights import WORKER
from tests.systems import SIGNING_KEYS, RedisServer, System, Worker
from tests.waiting import wait_until
from worker_config.settings import Settings


@dataclass
class Shards:
    """Each is a system of its own, but that its workers were told of all."""

    systems: list[System]

    @property
    def url(self) -> str:
        """What a producer is given."""
        return ",".join(system.url for system in self.systems)

    @property
    def workers(self) -> list[Worker]:
        return [worker for system in self.systems for worker in system.workers]

    def settings(self) -> Settings:
        """Settings for a producer in this process."""
        return Settings(broker_url=self.url, signing_key=SIGNING_KEYS)

    def start_worker(self, manifest: Path, children: int = 2, environ: Mapping[str, str] | None = None) -> Worker:
        """One that belongs to whichever shard it chooses; whose, only it knows."""
        urls = ",".join(system.redis.url_as(WORKER) for system in self.systems)
        system = min(self.systems, key=lambda one: len(one.workers))
        return system.start_worker(manifest, children, environ={"CELERIAC_BROKER_URL": urls, **(environ or {})})

    def wait_for_slots(self, *expected: int) -> None:
        """Until each shard has so many."""

        def there() -> bool:
            for worker in self.workers:
                assert worker.process.poll() is None, worker.output()
            return [len(system.slots()) for system in self.systems] == list(expected)

        wait_until(there, f"the shards have {expected} slots", 90.0)


@contextmanager
def bare_servers(folder: Path, count: int) -> Iterator[list[RedisServer]]:
    """So many Redis servers without workers, and without users."""
    servers = [RedisServer(folder / str(number), secured=False) for number in range(count)]
    try:
        for server in servers:
            server.folder.mkdir()
            server.start()
        yield servers
    finally:
        for server in servers:
            server.stop()


@contextmanager
def sharded(
    folder: Path,
    count: int,
    manifest: Path,
    children: int = 2,
    options: tuple[str, ...] = (),
    environ: Mapping[str, str] | None = None,
) -> Iterator[Shards]:
    """So many shards with a worker each; all ends with the block. `options` are of each Redis, `environ` of workers."""
    systems = []
    for number in range(count):
        (folder / str(number)).mkdir()
        systems.append(System(RedisServer(folder / str(number), options), folder / str(number)))
    shards = Shards(systems)
    try:
        for system in systems:
            system.redis.start()
        for _ in systems:
            shards.start_worker(manifest, children, environ)
        shards.wait_for_slots(*[children] * count)
        yield shards
    finally:
        for system in systems:
            system.stop()
