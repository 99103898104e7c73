"""How many chunks of each job are in a queue: by Redis alone, with a test in the place of workers."""

from __future__ import annotations

import base64
import json
import secrets
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from typing import cast

import pytest
import redis

from producer.broker.broker_channel import BrokerChannel
from producer.records import job_store, turns
from producer.scheduling.priority import WEIGHTS
from producer.scheduling.window import CHUNKS_PER_SLOT
from tasks.protocol import keys
from tasks.protocol.chunk_args import chunk_id
from tasks.protocol.messages import Failure, FailureRecord, InlineRef, ModelRef, Outputs
from tasks.protocol.plan import Plan
from tasks.transport import backlog, queues
from tasks.transport.resend_detached import message
from tests.seals import SEALER, push
from tests.systems import System, serving
from worker_config.errors import UnknownJobError, UsageError
from worker_config.retry_policy import QUEUE_TTL_SECONDS

QUEUE, OTHER = "celeriac.aaaaaaaaaaaa", "celeriac.bbbbbbbbbbbb"
MODEL = ModelRef("m", "0" * 64)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with serving(tmp_path_factory.mktemp("s")) as system:
        yield system


@pytest.fixture
def server(shared: System) -> Iterator[redis.Redis]:
    with shared.admin() as server:
        yield server
        server.flushdb()


class Left:
    """A detached job of one row in each chunk."""

    def __init__(self, system: System, chunks: int, weight: float, over: tuple[str, ...] = (QUEUE,)) -> None:
        self.id = secrets.token_hex(6)
        self.plan = Plan(chunks, 1, [MODEL], None, None, 900, [])
        self._system, self._over = system, over
        with system.admin() as client:
            record = job_store.new_record(self.id, [MODEL], "rows", "redis", chunks, self.plan, weight=weight)
            job_store.create(client, record, SEALER, 900)
        self.leave(range(chunks))

    def leave(self, indexes: range) -> None:
        with closing(BrokerChannel(self._system.url, self._system.settings(), self.id)) as channel:
            to = [(self._over[index % len(self._over)], message(self.id, self.plan, index)) for index in indexes]
            channel.leave(to, 900)


def take(server: redis.Redis, queue: str = QUEUE) -> tuple[str, int] | None:
    """Take the next chunk as a worker does: its job and index."""
    raw = server.rpop(keys.queue(queue))
    if raw is None:
        return None
    import msgpack

    envelope = json.loads(raw)
    assert envelope["properties"]["delivery_info"]["routing_key"] == queue
    chunk = chunk_id(msgpack.unpackb(base64.b64decode(envelope["body"]))[0])
    return chunk.job, chunk.index


def answer(server: redis.Redis, chunk: tuple[str, int], queue: str = QUEUE, seconds: float = 0.1) -> bool:
    job, index = chunk
    return push(server, Outputs(job, index, index, index + 1, "w/0", seconds, InlineRef(b"outputs")), queue=queue)


def run(server: redis.Redis, chunks: int) -> Counter[str]:
    """Take so many and answer each; how many each job had."""
    ran: Counter[str] = Counter()
    for _ in range(chunks):
        chunk = take(server)
        assert chunk
        assert answer(server, chunk)
        ran[chunk[0]] += 1
    return ran


def tend(server: redis.Redis, slots: int, queue: str = QUEUE) -> int:
    return queues.tend(server, [queue], "worker", slots)


def waiting(server: redis.Redis, queue: str = QUEUE) -> int:
    return int(server.llen(keys.queue(queue)))


# --- shares ---------------------------------------------------------------------------------------------------------


def test_a_job_alone_has_a_window_of_chunks_in_the_queue_until_its_end(shared: System, server: redis.Redis) -> None:
    tend(server, 2)
    job = Left(shared, 40, 1.0)
    window = 2 * CHUNKS_PER_SLOT
    assert waiting(server) == window
    held = [take(server), take(server)]  # as two children run them
    for ran in range(30):
        held.append(take(server))
        first = held.pop(0)
        assert first == (job.id, ran), "in order"
        assert answer(server, first)
        assert waiting(server) + len(held) == window
    assert tend(server, 2) == 38 - 30
    for chunk in held:
        assert chunk
        assert answer(server, chunk)
    run(server, 8)
    assert job_store.read(server, job.id, SEALER)[0] is job_store.JobState.DONE
    assert not list(server.scan_iter(keys.backlog(job.id, "*")))
    assert not server.hexists(keys.sharing(QUEUE), f"job:{job.id}")


def test_classes_share_by_weight_and_bulk_has_a_tenth(shared: System, server: redis.Redis) -> None:
    tend(server, 16)
    jobs = {name: Left(shared, 400, weight) for name, weight in WEIGHTS.items()}
    run(server, 64)  # the first one was alone
    ran = run(server, 300)
    shares = {name: ran[job.id] / 300 for name, job in jobs.items()}
    assert shares["bulk"] >= 0.095
    assert shares["normal"] >= 1.2 * shares["bulk"]
    assert shares["interactive"] >= 3 * shares["normal"]


def test_a_bulk_job_has_a_tenth_however_many_interactive_ones_there_are(shared: System, server: redis.Redis) -> None:
    tend(server, 16)
    bulk = Left(shared, 130, WEIGHTS["bulk"])
    for _ in range(5):
        Left(shared, 160, WEIGHTS["interactive"])
    run(server, 300)  # what was sent while there were fewer
    assert run(server, 310)[bulk.id] >= 31


def test_ten_equal_jobs_keep_step(shared: System, server: redis.Redis) -> None:
    tend(server, 2)
    left = {Left(shared, 50, 4.0).id: 50 for _ in range(10)}
    ends = []
    for ran in range(500):
        (job_id,) = run(server, 1)
        left[job_id] -= 1
        if not left[job_id]:
            ends.append(ran)
    assert len(ends) == 10
    assert ends[-1] <= 1.25 * ends[0], ends


def test_an_attached_job_counts_as_long_as_it_gives_signs_of_life(shared: System, server: redis.Redis) -> None:
    tend(server, 4)
    assert queues.share(server, QUEUE, "alone", 4.0) == 1.0
    assert queues.share(server, QUEUE, "other", 4.0) == 0.5
    assert queues.share(server, QUEUE, "heavy", 8.0) == 0.5
    server.hset(keys.sharing(QUEUE), "job:heavy", "8 1 0.5 0.25")  # as if it had been silent since 1970
    assert queues.share(server, QUEUE, "alone", 4.0) == 0.5
    server.hset(keys.job("other"), "weight", "12")
    assert queues.share(server, QUEUE, "other", 4.0) == 0.75, "what its record says now"
    assert 0 < server.ttl(keys.sharing(QUEUE)) <= QUEUE_TTL_SECONDS


def test_a_job_of_shorter_chunks_has_more_of_them(shared: System, server: redis.Redis) -> None:
    tend(server, 4)
    assert queues.share(server, QUEUE, "long", 4.0, 0.4) == 1.0
    assert queues.share(server, QUEUE, "short", 4.0, 0.1) == pytest.approx(0.5 * 0.25 / 0.1)
    assert queues.share(server, QUEUE, "long", 4.0, 0.4) == pytest.approx(0.5 * 0.25 / 0.4)
    left = Left(shared, 200, 8.0)  # of which nothing is known
    assert waiting(server) == round(0.5 * 4 * CHUNKS_PER_SLOT)
    assert queues.share(server, QUEUE, "short", 4.0, 0.1) == pytest.approx(0.25 * (0.25 * 0.4 + 0.75 * 0.1) / 0.1)
    run(server, 40)
    assert float(cast("bytes", server.hget(keys.job(left.id), "chunk_seconds"))) == pytest.approx(0.1)


def test_a_number_is_a_weight(shared: System, server: redis.Redis) -> None:
    tend(server, 16)
    light, heavy = Left(shared, 200, 2.0), Left(shared, 300, 6.0)
    run(server, 64)
    ran = run(server, 3 * 64)
    assert 3 * 14 <= ran[light.id] <= 3 * 18
    assert ran[light.id] + ran[heavy.id] == 3 * 64


def test_weights_change_while_jobs_run_and_not_after(shared: System, server: redis.Redis) -> None:
    tend(server, 16)
    one, two = Left(shared, 400, 1.0), Left(shared, 400, 1.0)
    run(server, 64)
    assert run(server, 64) == {one.id: 32, two.id: 32}
    assert job_store.set_weight(server, one.id[:8], 16.0) == one.id
    assert job_store.read(server, one.id, SEALER)[1].weight == 16.0
    run(server, 128)  # what was sent before
    assert run(server, 64)[one.id] == 56
    job_store.cancel(server, one.id)
    with pytest.raises(UsageError, match=f"job {one.id} is cancelled already; only a running job has a priority"):
        job_store.set_weight(server, one.id, 1.0)
    with pytest.raises(UnknownJobError, match="no job"):
        job_store.set_weight(server, "nobody", 1.0)
    assert job_store.read(server, two.id, SEALER)[1].weight == 1.0


# --- nothing is lost, doubled or left -------------------------------------------------------------------------------


def test_chunks_that_were_lost_do_not_stop_the_others(shared: System, server: redis.Redis) -> None:
    tend(server, 2)
    job = Left(shared, 60, 1.0)
    lost = [take(server) for _ in range(waiting(server))]
    assert len(lost) == 2 * CHUNKS_PER_SLOT
    assert waiting(server) == 0, "and nobody has anything to answer"
    assert tend(server, 2) == 60 - len(lost)
    assert waiting(server) == 2, "one for each slot"
    run(server, 60 - len(lost))
    assert not server.exists(keys.backlog(job.id, QUEUE))
    job.leave(range(len(lost)))  # as whoever waits for the job does
    run(server, len(lost))
    assert job_store.read(server, job.id, SEALER)[0] is job_store.JobState.DONE


def test_a_second_answer_moves_no_chunk(shared: System, server: redis.Redis) -> None:
    tend(server, 1)
    Left(shared, 20, 1.0)
    chunk = take(server)
    assert chunk
    assert answer(server, chunk)
    before = waiting(server)
    assert not answer(server, chunk, seconds=0.2)
    assert answer(server, chunk), "it is the same one, whose reply may have been lost"
    assert waiting(server) == before


def test_what_is_left_again_takes_the_place_of_what_waited(shared: System, server: redis.Redis) -> None:
    tend(server, 1)
    job = Left(shared, 20, 1.0, over=(QUEUE, OTHER))
    assert (waiting(server), waiting(server, OTHER)) == (CHUNKS_PER_SLOT, 1), "there no worker is known"
    assert backlog.count(server, job.id) == 20 - CHUNKS_PER_SLOT - 1
    job._over = (QUEUE,)
    job.leave(range(20))
    backlog.fill_queues(server, job.id, [QUEUE])  # a second time, as over a connection that was lost
    assert not server.exists(keys.backlog(job.id, OTHER))
    assert backlog.count(server, job.id) == 20 - CHUNKS_PER_SLOT
    assert not list(server.scan_iter(keys.staged(job.id, "*")))


def test_an_answer_moves_chunks_of_its_own_queue_alone(shared: System, server: redis.Redis) -> None:
    for queue in (QUEUE, OTHER):
        tend(server, 1, queue)
    Left(shared, 40, 1.0, over=(QUEUE, OTHER))
    for _ in range(10):
        chunk = take(server)
        assert chunk
        assert chunk[1] % 2 == 0
        assert answer(server, chunk)
    assert (waiting(server), waiting(server, OTHER)) == (CHUNKS_PER_SLOT, CHUNKS_PER_SLOT)


@pytest.mark.parametrize("ending", ["cancelled", "failed", "expired"])
def test_a_job_that_is_over_leaves_no_backlog_and_shares_no_more(
    shared: System, server: redis.Redis, ending: str
) -> None:
    tend(server, 2)
    job = Left(shared, 40, 1.0, over=(QUEUE, OTHER))
    if ending == "cancelled":
        job_store.cancel(server, job.id)
    elif ending == "failed":
        record = FailureRecord(0, 1, "infer", "ValueError", "a row")
        assert push(server, Failure(job.id, 0, "w/0", record))
    else:
        for key in (keys.job(job.id), *(keys.backlog(job.id, queue) for queue in (QUEUE, OTHER))):
            assert 0 < server.ttl(key) <= 900
            server.delete(key)
    sent = waiting(server)
    chunk = take(server)
    assert chunk
    assert not answer(server, chunk)
    tend(server, 2)
    tend(server, 2, OTHER)
    assert waiting(server) == sent - 1, "no more come; workers drop these"
    assert not list(server.scan_iter(keys.backlog(job.id, "*")))
    for queue in (QUEUE, OTHER):
        assert not server.hexists(keys.sharing(queue), f"job:{job.id}")
    job.leave(range(40))
    assert waiting(server) == sent - 1
    assert not list(server.scan_iter(keys.backlog(job.id, "*"))) + list(server.scan_iter(keys.staged(job.id, "*")))


def test_what_others_have_written_there_stops_no_job(shared: System, server: redis.Redis) -> None:
    tend(server, 2)
    queues.note(server, [QUEUE])
    job = Left(shared, 20, 4.0)
    server.hset(keys.job(job.id), mapping={"weight": "heavy", "chunk_seconds": "long"})
    names = {
        "job:other": "none",
        "job:": "4 9",
        "worker:x": "many 99999999999",
        "job:zero": "0 99999999999 1 1",
        "x": "",
    }
    server.hset(keys.sharing(QUEUE), mapping=names)
    run(server, 10)
    assert queues.share(server, QUEUE, "attached", 4.0) > 0
    assert list(turns.read_turns(server, [job.id, "other"])) == [job.id]
    run(server, 10)
    assert not server.exists(keys.backlog(job.id, QUEUE))


def test_where_jobs_stand(shared: System, server: redis.Redis) -> None:
    tend(server, 2)
    queues.note(server, [QUEUE])
    first, second = Left(shared, 20, 4.0), Left(shared, 20, 4.0)
    places = turns.read_turns(server, [first.id, second.id, "nobody"])
    assert places == {first.id: turns.Turn(1.0, 0), second.id: turns.Turn(0.5, 2 * CHUNKS_PER_SLOT)}
    while waiting(server):
        take(server)
    assert turns.read_turns(server, [first.id])[first.id].ahead is None
