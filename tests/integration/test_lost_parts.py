"""Parts of a detached job that a Redis has lost, and that several who wait for the job leave there again at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import redis
from msgspec.structs import replace

from producer.broker import jobs
from producer.detached.part_channels import PartChannels
from producer.detached.submit import leave_record
from producer.detached.watcher import Watcher
from producer.records import job_store
from producer.records.job_store import JobState
from tasks.protocol import keys
from tasks.protocol.messages import ModelRef, Outputs, SliceRef
from tasks.protocol.plan import Plan
from tasks.transport.resend_detached import message
from tests.seals import SEALER, outputs_ref, push
from tests.shards import bare_servers
from tests.systems import SIGNING_KEYS, RedisServer
from worker_config.settings import Settings

JOB = "0123456789ab"
ROWS = SliceRef("rows.npy", 448, 1, 128, "<f8", [1])
PLAN = Plan(40, 4, [ModelRef("m", "0" * 64)], ROWS, None, 600, [], deal=(0, 1))


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[list[RedisServer]]:
    with bare_servers(tmp_path, 2) as servers:
        yield servers


def answer_all(server: redis.Redis, part: int) -> None:
    """As its workers do."""
    assert job_store.claim_unsent(server, JOB)
    for index in PLAN.chunks_of(part):
        told = message(JOB, PLAN, index)
        outputs = outputs_ref(JOB, index, np.zeros((told.stop - told.start, 1)))
        assert push(server, Outputs(JOB, index, told.start, told.stop, "w/0", 0.1, outputs, models=PLAN.models))


def test_a_part_that_another_has_left_again_is_left_alone(servers: list[RedisServer]) -> None:
    settings = Settings(broker_url=",".join(server.url for server in servers), signing_key=SIGNING_KEYS)
    record = job_store.new_record(JOB, PLAN.models, "rows", "slices", 40, PLAN)
    with (
        closing(PartChannels(settings, JOB)) as one,
        closing(PartChannels(settings, JOB)) as two,
        servers[0].admin() as first,
        servers[1].admin() as second,
    ):
        for part in PLAN.parts:
            its = replace(PLAN, part=part)
            leave_record(one, replace(record, plan=its), its)
        answer_all(first, 0)
        second.flushall()
        seen = jobs.read_parts(two.shards, JOB, SEALER)
        assert seen.lost == {1}
        Watcher(one, JOB, PLAN, 600, lambda: None)._leave_again(jobs.read_parts(one.shards, JOB, SEALER))
        assert jobs.read(one.shards, JOB, SEALER)[0] is JobState.RUNNING
        assert second.ttl(keys.job(JOB)) > 0
        answer_all(second, 1)
        Watcher(two, JOB, PLAN, 600, lambda: None)._leave_again(seen)
        state, known = jobs.read(two.shards, JOB, SEALER)
        assert (state, known.ledger["predicted"]) == (JobState.DONE, 40)
        assert not job_store.claim_unsent(second, JOB)
