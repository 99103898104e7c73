"""What an injury does, and the proof that it did.

Each is a generator: what stands before its `yield` inflicts it and proves it, the condition that it yields says when it
is over, and what follows ends it, and proves that.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import TypeVar, cast

import psutil
import redis

from tasks.protocol import keys
from tasks.protocol.messages import Answer
from tests.chaos.calls import Idleness
from tests.chaos.scene import Scene
from tests.chaos.schedule import Injury, Kind
from tests.seals import opened_answer, push
from tests.waiting import descendants_of, has_status, is_alive, wait_until

Condition = Callable[[], object]
Course = Iterator[Condition]
T = TypeVar("T")

ANSWERS_TTL_SECONDS = 600
MARKER = "celeriac-chaos-marker"


def at_once() -> bool:
    return True


def child_killed(scene: Scene, injury: Injury) -> Course:
    pid = pick([pid for worker in scene.victims() for pid in descendants_of(worker.pid)], injury)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(pid), "the child is dead")
    yield at_once


def child_stopped(scene: Scene, injury: Injury) -> Course:
    pid = pick([pid for worker in scene.workers() for pid in descendants_of(worker.pid)], injury)
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: _stands_still(pid), "the child stands still")
    yield further(scene, injury)
    if is_alive(pid):  # something else may have happened to it
        os.kill(pid, signal.SIGCONT)
        wait_until(lambda: not has_status(pid, psutil.STATUS_STOPPED), "the child goes on")


def worker_killed(scene: Scene, injury: Injury) -> Course:
    scene.arena.kill(pick(scene.victims(), injury))
    another = scene.start_worker()
    yield lambda: scene.is_ready(another)


def worker_stopped(scene: Scene, injury: Injury) -> Course:
    worker = pick(scene.workers(), injury)
    pids = [worker.pid, *descendants_of(worker.pid)]
    os.killpg(worker.pid, signal.SIGSTOP)
    wait_until(lambda: all(map(_stands_still, pids)), "the worker stands still")
    yield further(scene, injury)
    if worker.process.poll() is None:
        os.killpg(worker.pid, signal.SIGCONT)
        wait_until(lambda: not has_status(worker.pid, psutil.STATUS_STOPPED), "the worker goes on")


def worker_leaves(scene: Scene, injury: Injury) -> Course:
    worker = pick(scene.victims(), injury)
    pids = [worker.pid, *descendants_of(worker.pid)]
    another = scene.start_worker() if len(scene.workers()) < 3 else None
    scene.arena.dismiss(worker)
    yield lambda: worker.process.poll() is not None and (another is None or scene.is_ready(another))
    wait_until(lambda: not any(map(is_alive, pids)), "no child of the worker that left is there")


def worker_joins(scene: Scene, injury: Injury) -> Course:
    worker = scene.start_worker()
    yield lambda: scene.is_ready(worker)


def redis_restarted(scene: Scene, injury: Injury) -> Course:
    scene.server.set(MARKER, "before", ex=ANSWERS_TTL_SECONDS)
    _kill_redis(scene)
    yield _at_once_or_later(scene, injury)
    scene.system.redis.start()
    assert scene.server.getdel(MARKER) == b"before", "Redis has its data"


def redis_emptied(scene: Scene, injury: Injury) -> Course:
    scene.server.set(MARKER, "before", ex=ANSWERS_TTL_SECONDS)
    _kill_redis(scene)
    yield _at_once_or_later(scene, injury)
    scene.system.redis.forget()
    scene.system.redis.start()
    assert scene.server.get(MARKER) is None, "Redis has lost its data"


def redis_stopped(scene: Scene, injury: Injury) -> Course:
    process = scene.system.redis.process
    assert process is not None
    process.send_signal(signal.SIGSTOP)
    wait_until(lambda: has_status(process.pid, psutil.STATUS_STOPPED), "Redis stands still")
    yield Idleness(scene.calls)
    process.send_signal(signal.SIGCONT)
    assert scene.server.ping()


def connections_cut(scene: Scene, injury: Injury) -> Course:
    _cut(scene, _connections(scene))
    yield at_once


def some_connections_cut(scene: Scene, injury: Injury) -> Course:
    draw, connections = random.Random(injury.pick), _connections(scene)  # noqa: S311
    _cut(scene, draw.sample(connections, max(1, len(connections) // 3)))
    yield at_once


def answer_delayed(scene: Scene, injury: Injury) -> Course:
    answer = _take_answer(scene)
    yield further(scene, injury)
    push(scene.server, answer, ANSWERS_TTL_SECONDS)  # unless the job is over, since the chunk was sent again


def answer_doubled(scene: Scene, injury: Injury) -> Course:
    answer = _take_answer(scene)
    for _ in range(2):
        assert push(scene.server, answer, ANSWERS_TTL_SECONDS), "the job runs"
    scene.doubled += 1
    yield at_once


def payload_lost(scene: Scene, injury: Injury) -> Course:
    def lose() -> bool:
        """The last chunk's, as no child has begun it; after a full disk Redis takes them, whatever the store."""
        with suppress(FileNotFoundError):
            found = sorted(scene.spool.glob(f"{scene.job_id()}/rows-*"), key=lambda path: path.stat().st_mtime)
            if found:
                found[-1].unlink()
                return True
        prefix = keys.payload(scene.job_id(), 0)[:-1]
        named = sorted(int(key[len(prefix) :]) for key in scene.server.scan_iter(f"{prefix}*"))
        return bool(named) and scene.server.unlink(f"{prefix}{named[-1]}") == 1

    wait_until(lose, "rows of a chunk are gone")
    yield at_once


def producer_killed(scene: Scene, injury: Injury) -> Course:
    scene.kill_producer()
    yield at_once
    scene.resume()


def pick(those: Sequence[T], injury: Injury) -> T:
    """The one of them that it happens to."""
    assert those
    return those[int(injury.pick * len(those))]


def _stands_still(pid: int) -> bool:
    """Stopped; or ended, as a child of a worker that was about to leave may be, and waits for its stopped parent."""
    return has_status(pid, psutil.STATUS_STOPPED) or not is_alive(pid)


def further(scene: Scene, injury: Injury, times: int = 1) -> Condition:
    """So many chunks more are predicted; or nobody has anything to do, because it all waits for this to be over."""
    far = scene.predicted_chunks
    until, idle = far() + times * injury.hold, Idleness(scene.calls, far)
    return lambda: scene.is_over() or far() >= until or idle()


def _at_once_or_later(scene: Scene, injury: Injury) -> Condition:
    """Later: when every child has done what it had, and waits."""
    return at_once if injury.pick < 0.5 else Idleness(scene.calls)


def _kill_redis(scene: Scene) -> None:
    scene.system.redis.stop()

    def refused() -> bool:
        try:
            with scene.system.admin(retries=0) as client:
                client.ping()
        except redis.ConnectionError:
            return True
        return False

    wait_until(refused, "Redis refuses connections")


def _connections(scene: Scene) -> list[int]:
    """The ids of those that are not ours."""
    own = scene.server.client_id()
    clients = cast("list[dict[str, str]]", scene.server.client_list(_type="normal"))
    return [int(client["id"]) for client in clients if int(client["id"]) != own]


def _cut(scene: Scene, connections: list[int]) -> None:
    cut = sum(bool(scene.server.client_kill_filter(_id=str(one))) for one in connections)
    assert cut, "connections were cut"
    assert not set(connections) & set(_connections(scene))


def _take_answer(scene: Scene) -> Answer:
    """An answer that its producer does not get."""

    def take() -> bytes | None:
        taken = cast("list[bytes] | None", scene.server.blpop([keys.results(scene.job_id())], timeout=1))
        return taken[1] if taken else None

    answer = opened_answer(scene.job_id(), wait_until(take, "an answer comes"))
    assert answer.job == scene.job_id()
    return answer


COURSES: dict[Kind, Callable[[Scene, Injury], Course]] = {
    Kind.CHILD_KILLED: child_killed,
    Kind.CHILD_STOPPED: child_stopped,
    Kind.WORKER_KILLED: worker_killed,
    Kind.WORKER_STOPPED: worker_stopped,
    Kind.WORKER_LEAVES: worker_leaves,
    Kind.WORKER_JOINS: worker_joins,
    Kind.REDIS_RESTARTED: redis_restarted,
    Kind.REDIS_EMPTIED: redis_emptied,
    Kind.REDIS_STOPPED: redis_stopped,
    Kind.CONNECTIONS_CUT: connections_cut,
    Kind.SOME_CONNECTIONS_CUT: some_connections_cut,
    Kind.ANSWER_DELAYED: answer_delayed,
    Kind.ANSWER_DOUBLED: answer_doubled,
    Kind.PAYLOAD_LOST: payload_lost,
    Kind.PRODUCER_KILLED: producer_killed,
}
