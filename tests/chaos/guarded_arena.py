"""An arena whose Redis is a primary with a replica, of which Sentinels say which one it is."""

from __future__ import annotations

from collections.abc import Callable

from tests.chaos.arena import Arena
from tests.chaos.injuries import Course, further
from tests.chaos.scene import Scene
from tests.chaos.schedule import Injury, Kind
from tests.sentinels import Guarded
from tests.systems import RedisServer
from tests.tls import Certificates


class GuardedArena(Arena):
    """Everybody, tests included, asks the Sentinels."""

    def start_redis(self) -> RedisServer:
        self.guarded = Guarded(self.folder, Certificates.make(self.folder)).start()
        return RedisServer(self.folder, address=self.guarded.url(with_tls=False))

    def stop(self, *, check: bool = True) -> None:
        try:
            super().stop(check=check)
        finally:
            self.guarded.stop()


def _failover(kind: str) -> Callable[[Scene, Injury], Course]:
    def course(scene: Scene, injury: Injury) -> Course:
        assert isinstance(scene.arena, GuardedArena)
        with scene.arena.guarded.failover(kind):
            yield further(scene, injury)
        scene.arena.guarded.wait_until_whole()

    return course


COURSES: dict[Kind, Callable[[Scene, Injury], Course]] = {
    Kind.PRIMARY_KILLED: _failover("killed"),
    Kind.PRIMARY_LEAVES: _failover("graceful"),
    Kind.PRIMARY_STALE: _failover("stale"),
    Kind.PRIMARY_DEMOTED: _failover("read-only"),
}
