"""Records, plans, counts and states in the hands of who writes to Redis: what is handed out stays what was left."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
import pytest
import redis

from producer import Client, JobState
from producer.records import job_store
from tasks.protocol import keys
from tasks.protocol.keys import JobField
from tasks.protocol.messages import FailureRecord
from tasks.protocol.records import JobRecord
from tasks.protocol.seal import Sealer, content_of, failure_context, record_context
from tasks.transport.resend_detached import send_void
from tests.forms import LONG
from tests.held import holding, write_held_models
from tests.manifests import write_manifest
from tests.systems import System, queued_messages, serving
from tests.waiting import wait_for_job, wait_until
from worker_config.errors import CeleriacError, ExitCode, MessageError, SealError, UnknownJobError
from worker_config.settings import Settings

OLD, NEW = "an-old-key-of-more-than-thirty-two-characters", "a-new-key-of-more-than-thirty-two-characters"
ROWS = np.arange(80, dtype=np.float32).reshape(20, 4)
CHUNKS = 5
FLIPS = 1_000 if LONG else 50
# How a record was sealed by who has no key of ours; the last is as an older release left it.
FORGERS: dict[str, Callable[[str, bytes], bytes]] = {
    "without key": lambda job, content: Sealer().seal_bytes(record_context(job), content),
    "another key": lambda job, content: Sealer(["x" * 32]).seal_bytes(record_context(job), content),
    "no seal": lambda _, content: content,
}


def signing(*keys: str) -> Mapping[str, str]:
    return {"CELERIAC_SIGNING_KEY": ",".join(keys)}


@pytest.fixture(scope="module", params=["checksums", "signatures"])
def keys_here(request: pytest.FixtureRequest) -> tuple[str, ...]:
    return () if request.param == "checksums" else (NEW,)


def start(folder: Path, *keys: str) -> Any:
    models = write_held_models(folder)
    manifest = write_manifest(folder, models | {"other": models["held"]})
    return serving(folder, manifest, 1, signing(*keys))


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, keys_here: tuple[str, ...]) -> Iterator[System]:
    with start(tmp_path_factory.mktemp("s"), *keys_here) as system:
        yield system


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with start(tmp_path_factory.mktemp("s"), NEW) as system:
        yield system


def client_of(system: System, *keys: str) -> Client:
    return Client(settings=Settings(broker_url=system.url, signing_key=keys))


def leave(client: Client, models: str | list[str] = "held") -> str:
    return client.submit(models, ROWS, chunk_rows=len(ROWS) // CHUNKS, detach=True)


def leave_done(client: Client, models: str | list[str] = "held") -> str:
    job_id = leave(client, models)
    wait_for_job(client.attach(job_id))
    return job_id


def record_of(server: redis.Redis, job_id: str) -> bytes:
    return cast("bytes", server.hget(keys.job(job_id), JobField.RECORD))


def put(server: redis.Redis, job_id: str, **fields: Any) -> None:
    server.hset(keys.job(job_id), mapping=fields)


def with_other_rows(record: bytes) -> bytes:
    """A plan that fits as well, by which the last two chunks would not be fetched."""
    known: Any = msgspec.json.decode(content_of(record), type=JobRecord)
    plan = msgspec.structs.replace(known.plan, rows=12)
    return msgspec.json.encode(msgspec.structs.replace(known, rows=12, plan=plan))


# --- the record -----------------------------------------------------------------------------------------------------


def test_bits_of_a_record(system: System, keys_here: tuple[str, ...]) -> None:
    with client_of(system, *keys_here) as client, system.admin() as server:
        job_id = leave_done(client)
        job, whole, draw = client.attach(job_id), record_of(server, job_id), random.Random(7)  # noqa: S311
        for bit in draw.sample(range(8 * len(whole)), FLIPS):
            damaged = bytearray(whole)
            damaged[bit // 8] ^= 1 << bit % 8
            put(server, job_id, record=bytes(damaged))
            for act in (lambda: client.attach(job_id), lambda: next(job.parts()), lambda: job.record):
                with pytest.raises(SealError, match=f"^job {job_id}: record/{job_id} "):
                    act()
        put(server, job_id, record=whole)
        np.testing.assert_array_equal(job.result(), ROWS * 2)


@pytest.mark.parametrize("forger", FORGERS)
def test_a_forged_plan_is_neither_fetched_nor_sent(signed: System, forger: str) -> None:
    with client_of(signed, NEW) as client, signed.admin() as server:
        with signed.standing_still():
            job_id = leave(client)
            job = client.attach(job_id)
            forged = FORGERS[forger](job_id, with_other_rows(record_of(server, job_id)))
            put(server, job_id, record=forged, resend=1)
            send_void(server, job_id, Sealer([NEW]))  # as a child does
            for act in (job.result, job.wait, lambda: client.attach(job_id)):
                with pytest.raises(SealError, match=rf"^job {job_id}: record/{job_id} .*; submit it again"):
                    act()
            queued_messages(server, job_id, 2)
        assert server.hexists(keys.job(job_id), JobField.RESEND), "for who has the right record"
        fetched = signed.celeriac("fetch", job_id, "-o", f"{job_id}.npy", **signing(NEW))
        assert (fetched.returncode, len(fetched.stderr.splitlines())) == (ExitCode.INPUT, 1)
        assert f"`celeriac cancel {job_id}` ends what is left of it" in fetched.stderr
        assert not (signed.folder / f"{job_id}.npy").exists()
        assert signed.celeriac("watch", job_id, **signing(NEW)).returncode == ExitCode.INPUT
        assert "its rows and outputs are gone" in signed.celeriac("cancel", job_id).stdout
        server.delete(keys.job(job_id))


def test_a_record_of_another_job_is_refused(system: System, keys_here: tuple[str, ...]) -> None:
    with client_of(system, *keys_here) as client, system.admin() as server:
        one, other = leave_done(client), leave_done(client)
        put(server, one, record=record_of(server, other))
        with pytest.raises(SealError, match=f"record/{one} is damaged"):
            client.attach(one)
        client.attach(other).result()


def test_one_forged_record_hides_no_other_job(signed: System) -> None:
    with client_of(signed, NEW) as client, signed.admin() as server:
        one, other = leave_done(client), leave_done(client)
        put(server, one, record=FORGERS["without key"](one, with_other_rows(record_of(server, one))))
        listed = signed.celeriac("jobs", **signing(NEW))
        assert other in listed.stdout
        assert one not in listed.stdout
        assert listed.returncode == ExitCode.INPUT
        assert f"job {one}: record/{one} is not signed with a key" in listed.stderr
        server.delete(keys.job(one))


def test_who_has_no_key_sees_jobs_and_fetches_none(signed: System) -> None:
    with client_of(signed, NEW) as client:
        job_id = leave_done(client)
    told = "jobs are signed, and CELERIAC_SIGNING_KEY is not set here: they are shown unchecked"
    for words in ("jobs", f"status {job_id}", f"failures {job_id}", f"watch {job_id}"):
        shown = signed.celeriac(*words.split(), **signing())
        assert (shown.returncode, job_id in shown.stdout) == (ExitCode.OK, True), shown
        assert shown.stderr.splitlines()[0] == f"celeriac: {told}"
        assert told not in signed.celeriac(*words.split(), **signing(NEW)).stderr
    fetched = signed.celeriac("fetch", job_id, "-o", "out.npy", **signing())
    assert fetched.returncode == ExitCode.INPUT
    line = f"celeriac: job {job_id}: record/{job_id} is signed; set CELERIAC_SIGNING_KEY here too\n"
    assert fetched.stderr == line


def test_keys_rotate_while_a_detached_job_is_open(tmp_path_factory: pytest.TempPathFactory) -> None:
    with start(tmp_path_factory.mktemp("s"), OLD) as system, holding(system.folder, ROWS[10, 0]) as let_go:
        with client_of(system, OLD) as client:
            job_id = leave(client)
            wait_until(lambda: client.attach(job_id).progress().predicted == 8, "some of it is done")
        system.start_ready_worker(system.folder / "models.toml", 1, environ=signing(NEW, OLD))
        system.workers[0].process.send_signal(signal.SIGKILL)
        let_go()
        with client_of(system, NEW, OLD) as client, system.admin() as server:
            put(server, job_id, resend=1)  # its chunk is made again from the plan, and signed anew
            np.testing.assert_array_equal(client.attach(job_id).result(), ROWS * 2)
        with client_of(system, NEW) as client, pytest.raises(SealError, match="is not signed with a key"):
            client.attach(job_id).result()


# --- counts and states ----------------------------------------------------------------------------------------------


def test_counts_are_not_what_is_handed_out(system: System, keys_here: tuple[str, ...]) -> None:
    with client_of(system, *keys_here) as client, system.admin() as server:
        job_id = leave_done(client)
        put(server, job_id, predicted=8, answered=2, chunks=2, failed=3, nonfinite_outputs=7, void=1, models=0)
        np.testing.assert_array_equal(client.attach(job_id).result(), ROWS * 2)
        put(server, job_id, state="running")
        np.testing.assert_array_equal(client.attach(job_id).result(), ROWS * 2)
        environ = signing(*keys_here)
        fetched = system.celeriac("fetch", job_id, "-o", f"{job_id}.npy", "--json", **environ)
        assert fetched.returncode == ExitCode.OK, fetched
        ledger = msgspec.json.decode(fetched.stdout.splitlines()[-1])["ledger"]
        counted = ("rows", "predicted", "written", "failed", "skipped", "nonfinite_outputs")
        assert [ledger[name] for name in counted] == [20, 20, 20, 0, 0, 0]
        np.testing.assert_array_equal(np.load(system.folder / f"{job_id}.npy"), ROWS * 2)


def test_a_job_that_is_said_to_be_done_has_no_fewer_rows(system: System, keys_here: tuple[str, ...]) -> None:
    with client_of(system, *keys_here) as client, system.admin() as server:
        with system.standing_still():
            early, short = leave(client), leave(client)
            put(server, early, state="done", predicted=20, answered=CHUNKS)
            put(server, short, chunks=2)
        wait_until(lambda: job_store.read(server, short, Sealer(keys_here))[0] is JobState.DONE, "two were answered")
        for job_id in (early, short):
            with pytest.raises(UnknownJobError, match=f"job {job_id} is done, but Redis has dropped its outputs"):
                client.attach(job_id).result()


def test_answers_that_are_taken_away_or_moved_are_no_others(system: System, keys_here: tuple[str, ...]) -> None:
    with client_of(system, *keys_here) as client, system.admin() as server:
        job_id, other = leave_done(client), leave_done(client)
        held = keys.answers(job_id)
        whole = cast("dict[bytes, bytes]", server.hgetall(held))
        for wrong in (server.hget(held, "2"), server.hget(keys.answers(other), "3"), flipped(whole[b"3"]), b""):
            server.hset(held, "3", cast("Any", wrong))
            with pytest.raises(CeleriacError, match=r"is for chunk 2|cannot be read|dropped its outputs"):
                client.attach(job_id).result()
        server.hdel(held, "3")
        with pytest.raises(UnknownJobError):
            client.attach(job_id).result()
        server.hset(held, mapping=cast("Any", whole))
        np.testing.assert_array_equal(client.attach(job_id).result(), ROWS * 2)


def flipped(data: bytes) -> bytes:
    return data[:-1] + bytes((data[-1] ^ 1,))


def test_no_model_is_left_out_by_who_has_no_key(system: System, keys_here: tuple[str, ...]) -> None:
    with client_of(system, *keys_here) as client, system.admin() as server:
        job_id = leave_done(client, ["held", "other"])
        record = msgspec.json.encode(FailureRecord(0, 4, "infer", "ValueError", "forged", "other"))
        sealer = Sealer(keys_here)
        unsealed, of_another_job = record, sealer.seal_bytes(failure_context("0123456789ab"), record)
        of_another_model = sealer.seal_bytes(failure_context(job_id), record)
        for forged, model in ((unsealed, "other"), (of_another_job, "other"), (of_another_model, "held")):
            put(server, job_id, **{f"{JobField.FAILED}{model}": forged})
            with pytest.raises((SealError, MessageError), match=f"failure/{job_id} is|has a failure of 'other'"):
                client.attach(job_id)
            server.hdel(keys.job(job_id), f"{JobField.FAILED}{model}")
        assert cast("dict[str, Any]", client.attach(job_id).result()).keys() == {"held", "other"}
