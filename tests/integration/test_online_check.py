"""An executor that is wrong on odd rows, in a real worker: it is found out, and nobody is left with what it gave."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import redis
import zarr

from producer import Client, JobState
from producer.detached.submit import put_payload
from producer.outputs.predict_to_sink import predict_to_sink
from producer.outputs.run_options import RunOptions
from producer.outputs.sidecar_files import ledger_path, read_beside
from producer.records import job_store
from producer.rows.part import Part
from producer.sinks import JournalHead, Sink, open_sink
from producer.sources import open_source
from tasks.protocol import keys
from tasks.protocol.keys import JobField
from tasks.protocol.messages import Differed, ModelRef, Outputs
from tasks.protocol.plan import Plan
from tasks.transport.publish_answer import VoidAnswerError
from tasks.transport.resend_detached import message
from tests.manifests import write_manifest
from tests.models import in_one_process, keras_may_warn
from tests.output_sets import assert_nothing_beside, read_folder
from tests.seals import SEALER, outputs_ref, push
from tests.systems import REPOSITORY, System, serving
from tests.waiting import wait_until
from worker_config.errors import ExecutorDifferedError, ExitCode, MessageError

ROWS, CHUNK_ROWS, ODD = 4_000, 50, 3_621
# Each its own file, so that what is found of one is not known of the others.
NAMES = ("whole", "file", "resumed", "parted", "once", "parts", "left", "early", "stored", "over")

# Read by every Python of the worker: it takes TFLite for these models, of which nothing is proven. TFLite's softplus is
# infinite above 88.7.
_HOOK = """
from tasks.preparation import prepare, trials
from tasks.snapshots.record import Trial, Trials


def trials_here(model, folder, snapshot, entry, context):
    trials._try("tflite", folder, snapshot, entry.batch_rows, context.threads)
    unproven = Trial("tflite", True, batch_seconds=0.001, unproven=["Softplus"])
    return Trials([Trial("graph", True, batch_seconds=1.0), unproven], "generated")


prepare.trials_here = trials_here
"""


@keras_may_warn()
def write_models(folder: Path) -> None:
    import keras

    for number, name in enumerate(NAMES):
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, activation="softplus")])
        model.set_weights([np.full((4, 2), 0.2 + number / 100, np.float32), np.array([0.0, 0.5], np.float32)])
        model.save(folder / f"{name}.keras")


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("s")
    write_models(folder)
    (folder / "hook").mkdir()
    (folder / "hook" / "sitecustomize.py").write_text(_HOOK)
    manifest = write_manifest(folder, {name: {"path": f"{name}.keras", "batch_rows": 32} for name in NAMES})
    environ = {"PYTHONPATH": f"{folder / 'hook'}:{REPOSITORY}", "XDG_CACHE_HOME": str(folder)}
    environ["CELERIAC_OUTPUT_ROOTS"] = str(folder)
    with serving(folder, manifest, environ=environ) as system:
        assert {info.executor for slot in system.slots() for info in slot.models} == {"tflite"}
        yield system


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    rows = np.random.default_rng(2).random((ROWS, 4), np.float32)
    rows[ODD] = 255
    return rows


def expected(system: System, name: str, rows: np.ndarray) -> np.ndarray:
    return np.asarray(in_one_process(system.folder / f"{name}.keras", rows))


def check_close(outputs: object, wanted: np.ndarray) -> None:
    np.testing.assert_allclose(outputs, wanted, rtol=1e-5)  # type: ignore[call-overload]


def notes(system: System, name: str) -> set[str]:
    return {info.note for slot in system.slots() for info in slot.models if info.name == name}


def test_a_whole_result_is_the_models_own_and_everybody_is_told(
    system: System, client: Client, server: redis.Redis, rows: np.ndarray
) -> None:
    job = client.submit("whole", rows, chunk_rows=CHUNK_ROWS)
    check_close(job.result(), expected(system, "whole", rows))
    assert job.state is JobState.DONE
    seen = job.differed["whole"]
    assert (seen.model, seen.executor, seen.row) == ("whole", "tflite", ODD)
    assert seen.text.startswith("output output_0[0] is inf instead of 204") or "is inf instead of 204" in seen.text
    assert (job.ledger.rows, job.ledger.predicted, job.ledger.written) == (ROWS, ROWS, ROWS)

    assert job_store.read(server, job.id, SEALER)[1].differed == job.differed
    status = system.celeriac("status", job.id).stdout
    assert f"tflite differed from the model's own graph on row {ODD}: {seen.text}; the own graph is used" in status
    note = (
        f"tflite differed from the model's own graph on row {ODD} of job {job.id}: {seen.text}; the own graph is used"
    )
    assert notes(system, "whole") == {note}
    assert note in system.celeriac("models").stdout
    assert f"job {job.id}: model whole: {seen}" in system.workers[0].output()
    (mark,) = (path for path in system.folder.glob("celeriac/*/differs-tflite.json") if note in path.read_text())

    again = client.submit("whole", rows[:500], chunk_rows=CHUNK_ROWS)
    check_close(again.result(), expected(system, "whole", rows[:500]))
    assert again.differed == {}
    assert mark.exists()


@pytest.mark.parametrize("name", ["file", "resumed"])
def test_a_file_has_the_models_own_outputs_alone(system: System, rows: np.ndarray, name: str) -> None:
    np.save(system.folder / f"{name}.npy", rows)
    output = system.folder / f"{name}-out.npy"
    words = ["predict", name, f"{name}.npy", "-o", output, "--chunk-rows", str(CHUNK_ROWS), "--json"]
    if name == "resumed":
        # What an earlier run has written was made by the same executor.
        (system.folder / "short").mkdir()
        from producer.sources import fingerprint, from_batches

        def broken() -> Iterator[np.ndarray]:
            yield rows[:1_000]
            raise OSError("the disk is gone")

        with Client(system.url) as client:
            head = JournalHead(fingerprint(system.folder / f"{name}.npy"), client.digests([name]))
            sink = open_sink(output, ROWS, False, journal=head, sync_seconds=0)
            with pytest.raises(Exception, match="1000 rows are safe"):
                predict_to_sink(client, [name], from_batches(broken()), sink, head, RunOptions(quiet=True))
        words.append("--resume")

    done = system.celeriac(*words)

    assert done.returncode == 0, done.stderr
    check_close(np.load(output), expected(system, name, rows))
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["differed"][name]["row"] == ODD
    assert (told["ledger"]["written"], told["ledger"]["resumed"]) == (ROWS, 0)
    assert read_beside(output)[0].differed[name].executor == "tflite"
    assert ledger_path(output).exists()
    assert done.stderr.count("begins again from the first row: ") == 1


def test_files_that_workers_have_written_are_the_models_own(system: System, rows: np.ndarray) -> None:
    np.save(system.folder / "parted.npy", rows)
    output = system.folder / "parted-out.npy"

    done = system.celeriac("predict", "parted", "parted.npy", "-o", f"{output}/", "--chunk-rows", str(CHUNK_ROWS))

    assert done.returncode == 0, done.stderr
    assert done.stderr.count("begins again from the first row: ") == 1
    check_close(read_folder(output), expected(system, "parted", rows))
    assert_nothing_beside(output)


@pytest.mark.parametrize("name", ["stored", "over"])
def test_a_zarr_store_that_has_begun_to_grow_begins_anew(
    system: System, client: Client, rows: np.ndarray, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Also one that is to replace another at its end."""
    monkeypatch.setattr("tasks.outputs.zarr.ZARR_BLOCK_BYTES", 1_024)
    write, output = Sink.write, system.folder / f"{name}.zarr"
    if name == "over":
        zarr.create_array(output, data=np.arange(5))

    def waits(sink: Sink, part: Part) -> None:
        write(sink, part)
        if part.start == 500 and sink.folder and not sink.folder.files:
            wait_until(lambda: sink._sync() or (sink.folder and sink.folder.files), "rows are merged")  # type: ignore[func-returns-value]

    monkeypatch.setattr(Sink, "write", waits)
    head = JournalHead({"name": "rows"}, client.digests([name]))
    sink = open_sink(output, ROWS, name == "over", journal=head, in_parts=True, sync_seconds=0)
    assert sink.folder
    sink.folder.part_bytes = 1
    run = RunOptions(quiet=True, chunk_rows=CHUNK_ROWS)
    summary = predict_to_sink(client, [name], open_source(rows), sink, head, run)
    assert name in summary.differed
    check_close(zarr.open_array(output, mode="r")[:], expected(system, name, rows))
    assert_nothing_beside(output)


def test_rows_that_come_once_end_the_job_and_the_next_one_is_right(
    system: System, client: Client, rows: np.ndarray
) -> None:
    job = client.submit("once", iter(rows), chunk_rows=CHUNK_ROWS)
    with pytest.raises(ExecutorDifferedError, match=rf"on row {ODD} of model once .* submit the job again") as raised:
        job.result()
    assert raised.value.exit_code is ExitCode.MODEL
    assert job.state is JobState.FAILED
    check_close(client.predict("once", iter(rows), chunk_rows=CHUNK_ROWS), expected(system, "once", rows))


def test_parts_that_were_taken_end_the_job(client: Client, rows: np.ndarray) -> None:
    job = client.submit("parts", rows, chunk_rows=CHUNK_ROWS)
    taken: list[Part] = []
    with pytest.raises(ExecutorDifferedError):
        deque(map(taken.append, job.parts()))
    assert taken
    assert all(np.isfinite(part.outputs).all() for part in taken), "what comes later never does"


def test_before_anything_is_joined_the_job_just_goes_on(system: System, client: Client, rows: np.ndarray) -> None:
    some = rows[ODD - 3 : ODD + 20]
    job = client.submit("early", iter(some), chunk_rows=len(some))
    check_close(job.result(), expected(system, "early", some))
    assert job.differed["early"].row == 3


def test_a_job_that_was_left_ends_by_itself_with_the_models_own_outputs(
    system: System, client: Client, server: redis.Redis, rows: np.ndarray
) -> None:
    left = client.submit("left", rows, chunk_rows=CHUNK_ROWS, detach=True)
    wait_until(
        lambda: job_store.read(server, left, SEALER)[0] is JobState.DONE,
        "the job is done, though nobody looks after it",
    )
    record = job_store.read(server, left, SEALER)[1]
    assert record.void > 0
    assert record.differed["left"].row == ODD
    assert (record.ledger["predicted"], record.ledger["chunks_answered"]) == (ROWS, ROWS // CHUNK_ROWS)

    done = system.celeriac("fetch", left, "-o", "left.npy", "--json")

    assert done.returncode == 0, done.stderr
    check_close(np.load(system.folder / "left.npy"), expected(system, "left", rows))
    assert json.loads(done.stdout.splitlines()[-1])["differed"]["left"]["row"] == ODD
    assert "tflite differed" in system.celeriac("watch", left).stdout


# --- answers of a job that was left, by hand -----------------------------------------------------------------------

MODEL = ModelRef("m", "0" * 64)
SEEN = Differed("m", "tflite", 4, "output y is 1 instead of 2")


def leave(server: redis.Redis, job_id: str) -> Plan:
    plan = Plan(6, 2, [MODEL], None, None, 60, [])
    job_store.create(server, job_store.new_record(job_id, plan.models, "rows", "redis", 6, plan), SEALER, 60)
    for index in range(3):
        put_payload(server, job_id, index, b"rows", 60)
    return plan


def answer(server: redis.Redis, plan: Plan, job_id: str, index: int, value: float, *, executor: bool) -> bool:
    told = message(job_id, plan, index)
    made, differed = (["m"], []) if executor else ([], [SEEN])
    outputs = Outputs(
        job_id, index, told.start, told.stop, "w/1", 0.1, outputs_ref(job_id, index, np.full(2, value, np.float32))
    )
    import msgspec

    return push(server, msgspec.structs.replace(outputs, by_executor=made, differed=differed), 60)


def test_answers_by_an_executor_that_differs_are_void_and_no_more_are_taken(
    system: System, client: Client, server: redis.Redis
) -> None:
    job_id = "0123456789ab"
    plan = leave(server, job_id)
    for index in range(2):
        assert answer(server, plan, job_id, index, -1.0, executor=True)
    job = client.attach(job_id)
    parts = job.parts()
    assert next(parts).start == 0

    assert answer(server, plan, job_id, 2, 2.0, executor=False)
    with pytest.raises(VoidAnswerError):
        answer(server, plan, job_id, 0, -1.0, executor=True)
    state, record = job_store.read(server, job_id, SEALER)
    assert (state, record.void, record.ledger["chunks_answered"], record.ledger["predicted"]) == ("running", 2, 1, 2)

    for index in range(2):  # whoever sent it again
        assert answer(server, plan, job_id, index, 2.0, executor=False)
    assert job_store.read(server, job_id, SEALER)[0] is JobState.DONE
    with pytest.raises(ExecutorDifferedError, match="read the job from its first row again"):
        list(parts)
    np.testing.assert_array_equal(job.result(), np.full(6, 2.0))


@pytest.mark.parametrize("forgets", [False, True], ids=["told", "told by answers alone"])
def test_a_void_answer_that_is_put_back_is_not_handed_out(client: Client, server: redis.Redis, forgets: bool) -> None:
    job_id = f"0123456789a{int(forgets)}"
    plan = leave(server, job_id)
    assert answer(server, plan, job_id, 0, -1.0, executor=True)
    void, held = server.hget(keys.answers(job_id), "0"), keys.answers(job_id)
    for index in (2, 1, 0):
        assert answer(server, plan, job_id, index, 2.0, executor=False)
    own = server.hget(held, "0")
    if forgets:
        server.hdel(keys.job(job_id), f"{JobField.OWN_GRAPH}m", JobField.VOID)
    job = client.attach(job_id)

    server.hset(held, "0", cast("str", void))
    with pytest.raises(MessageError, match=rf"the answer to chunk 0 of job {job_id} is void: model m: {SEEN}"):
        job.result()

    server.hset(held, "0", cast("str", own))
    np.testing.assert_array_equal(job.result(), np.full(6, 2.0))
