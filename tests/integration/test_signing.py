"""Signed messages: workers run, and producers join, what is signed alone; keys rotate while a job runs."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

from producer import Client
from producer.broker.broker_channel import BrokerChannel
from producer.scheduling import model_pinning
from tasks.protocol import codec, keys
from tasks.protocol.messages import Outputs, pack
from tasks.protocol.seal import Sealer, answer_context
from tests.held import holding, write_held_models
from tests.manifests import write_manifest
from tests.seals import outputs_ref, sealed_answer
from tests.systems import System, serving
from tests.waiting import wait_until
from worker_config.errors import ExitCode
from worker_config.settings import Settings

OLD, NEW = "an-old-key-of-more-than-thirty-two-characters", "a-new-key-of-more-than-thirty-two-characters"
ROWS = np.arange(80, dtype=np.float32).reshape(20, 4)


def signing(*keys: str) -> Mapping[str, str]:
    return {"CELERIAC_SIGNING_KEY": ",".join(keys)}


@contextmanager
def signing_worker(folder: Path, *signing_keys: str) -> Iterator[System]:
    with serving(folder, write_manifest(folder, write_held_models(folder)), 1, signing(*signing_keys)) as system:
        yield system


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Its worker signs with the new key, and knows the old one."""
    with signing_worker(tmp_path_factory.mktemp("s"), NEW, OLD) as system:
        yield system


def client_of(system: System, *keys: str) -> Client:
    return Client(settings=Settings(broker_url=system.url, signing_key=keys))


@pytest.mark.parametrize("keys_here", [(NEW,), (NEW, OLD), (OLD, NEW)], ids=["new", "new and old", "old and new"])
@pytest.mark.parametrize("detach", [False, True], ids=["attached", "detached"])
def test_who_has_a_key_gets_predictions(system: System, keys_here: tuple[str, ...], detach: bool) -> None:
    with client_of(system, *keys_here) as client:
        if detach:
            outputs = client.attach(client.submit("held", ROWS, chunk_rows=4, detach=True)).result()
        else:
            outputs = client.predict("held", ROWS, chunk_rows=4)
    np.testing.assert_array_equal(outputs, ROWS * 2)


@pytest.mark.parametrize(
    "keys_here", [(), ("another-key-of-more-than-thirty-two-characters",)], ids=["none", "another"]
)
def test_what_is_not_signed_as_it_should_be_is_not_run(
    system: System, keys_here: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Somebody who does not care what workers tell of their keys.
    monkeypatch.setattr(model_pinning, "_believe_each_other", lambda *_: True)
    before = system.workers[0].output().count("is not signed with a key")
    with client_of(system, *keys_here) as client:
        job = client.submit("held", ROWS[:4])
        wait_until(lambda: system.workers[0].output().count("is not signed with a key") > before, "it is refused")
        job.cancel()
    assert job.ledger.predicted == 0


@pytest.mark.parametrize("words", ["predict held rows.npy -o out.npy", "predict held rows.npy --detach"])
def test_a_command_without_the_workers_key_ends_with_one_line(system: System, words: str) -> None:
    np.save(system.folder / "rows.npy", ROWS)
    ended = system.celeriac(*words.split(), **signing())
    assert ended.returncode == ExitCode.NO_WORKER
    said, _, broker = ended.stderr.partition("; looked at ")
    assert said.endswith("believe signed messages alone; set CELERIAC_SIGNING_KEY here as it is there")
    assert "redis" in broker
    assert len(ended.stderr.splitlines()) == 1


def test_what_is_forged_altered_moved_or_sent_again_changes_nothing_and_is_counted(
    system: System, server: redis.Redis
) -> None:
    with client_of(system, NEW) as client, holding(system.folder, ROWS[0, 0]) as let_go:
        job = client.submit("held", ROWS, chunk_rows=20)
        wait_until(lambda: server.exists(keys.job(job.id)), "it has begun")
        forged = Outputs(job.id, 0, 0, 20, "w", 0.1, outputs_ref(job.id, 0, ROWS))
        other_job = uuid.uuid4().hex[:12]
        signed_for_another = Sealer([NEW]).seal_bytes(answer_context(other_job), pack(forged))
        altered = bytearray(Sealer([NEW]).seal_bytes(answer_context(job.id), pack(forged)))
        altered[-1] ^= 1
        unsigned = sealed_answer(forged)
        server.rpush(keys.results(job.id), unsigned, bytes(altered), signed_for_another)
        wait_until(lambda: job.ledger.damaged == 3, "they are counted")
        # Signed as it should be, with outputs that are not.
        server.rpush(keys.results(job.id), Sealer([NEW]).seal_bytes(answer_context(job.id), pack(forged)))
        wait_until(lambda: job.ledger.damaged == 4, "its outputs are looked at")
        assert job.ledger.predicted == 0
        let_go()
        np.testing.assert_array_equal(job.result(), ROWS * 2)


def test_rows_in_redis_that_are_not_signed_are_not_run(system: System, server: redis.Redis) -> None:
    rows = np.zeros((64, 1024), np.float32)
    with client_of(system, NEW) as client:
        with system.standing_still():
            job = client.submit("held", rows, store="redis")
            key = wait_until(
                lambda: next(iter(server.scan_iter(keys.payload(job.id, "*"))), None), "the rows are there"
            )
            server.set(key, codec.encode(rows + 1))
        # What the producer puts there again is its own.
        np.testing.assert_array_equal(job.result(), rows * 2)
        assert job.ledger.damaged == 1


def test_control_commands_are_heeded_if_they_are_signed(system: System) -> None:
    def said(words: str, **environ: str) -> str:
        ended = system.celery(*words.split(), **environ)
        return ended.stdout + ended.stderr

    assert "it is not signed with a key of CELERIAC_SIGNING_KEY" in said("control drain")
    assert "the worker drains" in said("control drain", **signing(NEW))
    assert "the worker takes chunks again" in said("control resume", **signing(OLD))
    assert "it is not signed" in said("control shutdown")
    assert "pong" in said("inspect ping")


def test_keys_rotate_while_a_job_runs(tmp_path_factory: pytest.TempPathFactory) -> None:
    with (
        signing_worker(tmp_path_factory.mktemp("s"), OLD) as system,
        client_of(system, OLD, NEW) as client,
        holding(system.folder, ROWS[10, 0]) as let_go,
    ):
        job: Any = client.submit("held", ROWS, chunk_rows=1)
        wait_until(lambda: job.ledger.predicted == 10, "half of it is done")
        system.start_ready_worker(system.folder / "models.toml", 1, environ=signing(NEW, OLD))
        system.workers[0].stop()
        let_go()
        np.testing.assert_array_equal(job.result(), ROWS * 2)
        assert job.ledger.damaged == 0


def test_a_producer_without_key_says_so_when_answers_are_signed(system: System, server: redis.Redis) -> None:
    channel = BrokerChannel(system.url, Settings(broker_url=system.url), "0123456789ab")
    signed = Sealer([NEW]).seal_bytes(answer_context("0123456789ab"), b"anything")
    server.rpush(keys.results("0123456789ab"), signed)
    try:
        assert channel.take_answers() == []
        assert channel.damaged == 1
    finally:
        channel.forget_job()
        channel.close()
