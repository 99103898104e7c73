"""`celeriac jobs`: which ones, in which order, and how many."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner, Result

from producer import Client
from producer.cli.commands import cli
from producer.records import job_store
from producer.records.job_store import JobState
from tasks.protocol.messages import ModelRef
from tests.seals import SEALER
from tests.systems import RedisServer
from worker_config.broker import redacted
from worker_config.errors import NoWorkerError

IDS = [f"{number:012x}" for number in range(50)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """It knows fifty jobs: each tenth runs, and every second is of another model too."""
    server = RedisServer(tmp_path_factory.mktemp("r")).start()
    with server.admin() as client:
        for number, job_id in enumerate(IDS):
            names = ["digits", "letters"] if number % 2 else ["digits"]
            record = job_store.new_record(job_id, [ModelRef(name, "ab" * 32) for name in names], "rows", "redis", 8)
            record = msgspec.structs.replace(record, submitted_at=1_700_000_000.0 + number)
            job_store.create(client, record, SEALER, 60)
            if number % 10:
                job_store.finish(client, record, SEALER, JobState.DONE, 60)
    yield server
    server.stop()


def listed(server: RedisServer, *words: str) -> Result:
    done = CliRunner().invoke(cli, ["jobs", "--broker", server.url, *words])
    assert done.exit_code == 0, done.output
    return done


def ids(result: Result) -> list[str]:
    return [line.split()[0] for line in result.stdout.splitlines()[1:]]


def test_the_newest_are_first_and_no_more_than_fit_a_screen(server: RedisServer) -> None:
    shown = listed(server)
    assert ids(shown) == IDS[:-21:-1]
    assert shown.stderr == "celeriac: 30 older than these; --limit 0 lists all\n"


def test_as_many_as_are_asked_for(server: RedisServer) -> None:
    assert ids(listed(server, "--limit", "3")) == IDS[:-4:-1]
    everything = listed(server, "--limit", "0")
    assert (ids(everything), everything.stderr) == (IDS[::-1], "")
    told = json.loads(listed(server, "--json").stdout)["jobs"]
    assert [one["job"] for one in told] == IDS[::-1], "programs get all if they do not say otherwise"
    assert len(json.loads(listed(server, "--json", "--limit", "7").stdout)["jobs"]) == 7


def test_of_one_state_and_one_model(server: RedisServer) -> None:
    assert ids(listed(server, "--state", "running")) == IDS[40::-10]
    assert ids(listed(server, "--model", "letters", "--limit", "0")) == IDS[::-2]
    assert ids(listed(server, "--model", "letters", "--state", "running")) == []
    assert listed(server, "--model", "letter").stdout == "no jobs\n"


def test_who_finds_no_worker_is_told_where_it_was_looked_for(server: RedisServer) -> None:
    where = re.escape(str(redacted(server.url)))
    with (
        Client(server.url, worker_timeout_seconds=0) as client,
        pytest.raises(NoWorkerError, match=f"no worker is up; start one with .*; looked at {where}"),
    ):
        client.predict("digits", np.zeros((1, 64), np.float32))
