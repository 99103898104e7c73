"""How a worker starts, refuses to start, replaces a child, and ends."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from producer import Client
from tasks.protocol import keys
from tasks.protocol.records import SlotRecord
from tests.manifests import write_manifest
from tests.systems import BIN, REPOSITORY, RedisServer, System, Worker, serving
from tests.waiting import descendants_of, is_alive, wait_until
from worker_config.errors import ExitCode

PASSWORD = "s3cr3t-of-the-test"
# Celery's own patience with replacements is 4 seconds.
SLOW_TO_LOAD = """
from tests.waiting import take

take(4.5)


def same(rows):
    return rows
"""
# The first child goes ahead; the others wait for the test.
ONE_AT_A_TIME = """
from pathlib import Path

from tests.waiting import wait_until

HERE = Path(__file__).parent
try:
    (HERE / "first").touch(exist_ok=False)
except FileExistsError:
    wait_until((HERE / "go").exists, "the test goes on")


def same(rows):
    return rows
"""


@pytest.fixture(scope="module")
def redis_alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A Redis for workers that do not come up, or not for long."""
    folder = tmp_path_factory.mktemp("s")
    with serving(folder) as system:
        yield system


def test_ready_children_are_announced_with_slots_models_and_digests(running_system: System, models: Path) -> None:
    slots = running_system.slots()

    assert [slot.slot for slot in slots] == [0, 1]
    assert {slot.pid for slot in slots} <= set(descendants_of(running_system.workers[0].pid))
    for slot in slots:
        held = {info.name: info for info in slot.models}
        assert set(held) == {"digits", "digits_h5", "digits_saved", "pair", "pair_saved"}
        for name, file in (("digits", "digits.keras"), ("digits_h5", "digits.h5"), ("pair", "pair.keras")):
            assert held[name].digest == hashlib.sha256((models / file).read_bytes()).hexdigest()
        assert [spec.shape for spec in held["digits"].inputs] == [(None, 64)]
        assert [spec.dtype for spec in held["pair"].inputs] == ["float32", "int32"]
        assert [spec.name for spec in held["pair"].outputs] == ["narrow", "wide"]


def test_the_main_process_imports_tensorflow_and_never_starts_its_runtime(running_system: System) -> None:
    worker = running_system.workers[0]
    child = running_system.slots()[0].pid

    assert "libtensorflow" in Path(f"/proc/{worker.pid}/maps").read_text()
    # The runtime has thread pools of its own; children that need it have them, the main process must not.
    assert _threads(worker.pid) == 1 <= _threads(child)


def test_tensorflow_is_imported_only_where_rows_need_it(redis_alone: System, models: Path) -> None:
    manifest = _digits_manifest(redis_alone, models)
    first = redis_alone.start_ready_worker(manifest, 1)
    first.stop()
    _forget_workers(redis_alone)
    worker = redis_alone.start_ready_worker(manifest, 1, fresh=True)
    (slot,) = redis_alone.slots()
    (info,) = slot.models
    assert info.executor in ("tflite", "openvino")
    rows = np.random.default_rng(5).random((70, 64), np.float32)
    with Client(redis_alone.url) as client:
        outputs = client.predict("digits", rows)
        for pid in (worker.pid, slot.pid):
            assert "libtensorflow" not in Path(f"/proc/{pid}/maps").read_text()

        rows[3, 5] = np.nan  # for the model's own graph
        with_nan = client.predict("digits", rows, on_nonfinite="allow")
    np.testing.assert_allclose(np.delete(with_nan, 3, 0), np.delete(outputs, 3, 0), rtol=1e-4, atol=1e-6)
    assert "libtensorflow" in Path(f"/proc/{slot.pid}/maps").read_text()
    assert "libtensorflow" not in Path(f"/proc/{worker.pid}/maps").read_text()
    worker.stop()
    _forget_workers(redis_alone)


def test_a_redis_that_lost_everything_is_told_of_the_slots_again(running_system: System) -> None:
    before = running_system.slots()

    with running_system.admin() as client:
        client.flushall()

    assert wait_until(lambda: len(slots := running_system.slots()) == 2 and slots, "the slots are back") == before


def test_a_redis_that_lost_everything_is_told_of_a_child_that_had_just_come_up(running_system: System) -> None:
    killed = running_system.slots()[0].pid
    os.kill(killed, signal.SIGKILL)

    def others() -> list[SlotRecord]:
        slots = running_system.slots()
        return [] if killed in {slot.pid for slot in slots} or len(slots) < 2 else slots

    before = wait_until(others, "another child is in its place")

    with running_system.admin() as client:
        client.flushall()

    assert wait_until(lambda: len(slots := running_system.slots()) == 2 and slots, "the slots are back") == before


def test_a_child_that_dies_just_as_its_worker_comes_up_is_replaced(redis_alone: System, models: Path) -> None:
    worker = redis_alone.start_worker(_digits_manifest(redis_alone, models), 1)
    (slot,) = wait_until(redis_alone.slots, "the child holds its model")
    os.kill(slot.pid, signal.SIGKILL)

    _wait_for_ready(worker)
    wait_until(lambda: [one for one in redis_alone.slots() if one.pid != slot.pid], "another child is in its place")
    worker.stop()
    _forget_workers(redis_alone)


def test_a_child_that_dies_while_another_still_loads_is_replaced(system: System) -> None:
    (system.folder / "one_at_a_time.py").write_text(ONE_AT_A_TIME)
    manifest = write_manifest(system.folder, {"one_at_a_time": "one_at_a_time:same"})
    worker = system.start_worker(manifest, 2, environ={"PYTHONPATH": str(REPOSITORY)})
    (first,) = wait_until(system.slots, "one child holds its model")

    os.kill(first.pid, signal.SIGKILL)
    wait_until(lambda: not psutil.pid_exists(first.pid), "the worker has seen that it is dead")
    (system.folder / "go").touch()

    _wait_for_ready(worker)
    wait_until(lambda: len(slots := system.slots()) == 2 and first not in slots, "another child is in its place")


def test_a_worker_that_is_asked_to_end_leaves_nothing_in_redis(redis_alone: System, models: Path) -> None:
    worker = redis_alone.start_ready_worker(_digits_manifest(redis_alone, models), 1)
    _wait_for_ready(worker)
    children = descendants_of(worker.pid)

    os.kill(worker.pid, signal.SIGTERM)

    assert _exit_code(worker) == 0, worker.output()
    assert not any(map(is_alive, children))
    with redis_alone.admin() as client:
        assert not client.exists(keys.WORKERS)
        assert list(client.scan_iter(keys.worker("*"))) == []


def test_the_threads_of_one_operation_are_as_many_as_were_asked_for(redis_alone: System, models: Path) -> None:
    manifest = _digits_manifest(redis_alone, models)
    worker = redis_alone.start_worker(manifest, 1, environ={"CELERIAC_INTRA_OP_THREADS": "3"})

    told = re.compile(r"^1 child holds digits@\w{8}, 3 threads each$", re.MULTILINE)
    wait_until(lambda: told.search(worker.output()), "the worker tells its threads")
    worker.stop()
    _forget_workers(redis_alone)


def test_a_broken_model_ends_the_worker_with_one_line_that_names_it(redis_alone: System, special_models: Path) -> None:
    worker = redis_alone.start_worker(special_models / "broken.toml", 2)

    assert _exit_code(worker) == ExitCode.MODEL, worker.output()
    (line,) = _our_lines(worker)
    assert line.startswith(f"celeriac: model broken cannot be loaded from {special_models}/broken.keras: ValueError: ")
    assert " ready." not in worker.output()
    assert redis_alone.slots() == []


def test_a_model_that_is_not_there_ends_the_worker_with_one_line_that_names_it(redis_alone: System) -> None:
    manifest = redis_alone.folder / "lost.toml"
    manifest.write_text('[models.lost]\npath = "nowhere.keras"\n')

    worker = redis_alone.start_worker(manifest, 1)

    assert _exit_code(worker) == ExitCode.MODEL, worker.output()
    path = manifest.parent / "nowhere.keras"
    assert _our_lines(worker) == [f"celeriac: model lost cannot be loaded from {path}: No such file or directory"]


@pytest.mark.parametrize(
    ("options", "environ", "message"),
    [
        ((), {"CELERIAC_MODELS": "/nowhere/models.toml"}, "the manifest /nowhere/models.toml cannot be read"),
        ((), {"CELERIAC_INTRA_OP_THREADS": "many"}, "CELERIAC_INTRA_OP_THREADS='many' is not a whole number"),
        ((), {"CELERIAC_BROKER_URL": ""}, "no broker; set CELERIAC_BROKER_URL"),
        ((), {"CELERIAC_BROKER_URL": "amqp://localhost"}, "is not a Redis URL"),
        (("-P", "threads"), {}, "models run in prefork children alone; leave out -P/--pool"),
        (("-P", "solo"), {}, "models run in prefork children alone; leave out -P/--pool"),
    ],
    ids=["no manifest", "bad number", "no broker", "other broker", "threads", "solo"],
)
def test_what_was_told_wrongly_ends_the_worker_with_one_line(
    redis_alone: System, models: Path, options: tuple[str, ...], environ: dict[str, str], message: str
) -> None:
    worker = redis_alone.start_worker(models / "models.toml", 1, *options, environ=environ)

    assert _exit_code(worker) == ExitCode.USAGE, worker.output()
    (line,) = _our_lines(worker)
    assert message in line
    assert "Traceback" not in worker.output()


@pytest.mark.parametrize("given", [":wrong-" + PASSWORD + "@", ""], ids=["wrong", "none"])
def test_a_refused_password_ends_the_worker_and_is_not_printed(
    tmp_path_factory: pytest.TempPathFactory, models: Path, given: str
) -> None:
    folder = tmp_path_factory.mktemp("s")
    system = System(RedisServer(folder, ("--requirepass", PASSWORD), secured=False).start(), folder)
    try:
        url = f"unix://{given}{folder}/redis.sock"
        worker = system.start_worker(models / "models.toml", 1, environ={"CELERIAC_BROKER_URL": url})

        assert _exit_code(worker) == ExitCode.BROKER, worker.output()
        (line,) = _our_lines(worker)
        assert "refuses the user or password" in line
        assert PASSWORD not in worker.output()
    finally:
        system.stop()


def test_a_main_process_that_ran_an_operation_refuses_to_fork(redis_alone: System, models: Path) -> None:
    (redis_alone.folder / "hasty.py").write_text("import tensorflow as tf\nONE = tf.constant(1.0)\n")

    worker = redis_alone.start_worker(models / "models.toml", 1, "--include", "hasty")

    assert _exit_code(worker) == ExitCode.NO_WORKER, worker.output()
    (line,) = _our_lines(worker)
    assert "TensorFlow ran an operation in the worker's main process" in line
    assert redis_alone.slots() == []


def test_ready_is_said_when_models_are_loaded_and_a_slow_replacement_comes_up(system: System) -> None:
    (system.folder / "slow_to_load.py").write_text(SLOW_TO_LOAD)
    manifest = write_manifest(system.folder, {"slow_to_load": "slow_to_load:same"})
    worker = system.start_worker(manifest, 1, environ={"PYTHONPATH": str(REPOSITORY)})

    def announced() -> list[SlotRecord]:
        log = worker.output()
        slots = system.slots()
        assert slots or " ready." not in log
        return slots

    (first,) = wait_until(announced, "the child holds its model")
    _wait_for_ready(worker)
    assert worker.output().index("1 child holds slow_to_load") < worker.output().index(" ready.")

    os.kill(first.pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(first.pid), "the child is dead")

    def replaced() -> SlotRecord | None:
        return next((slot for slot in system.slots() if slot.pid != first.pid), None)

    second = wait_until(replaced, "another child is in its place")
    assert second.slot == first.slot
    assert second.models[0].load_seconds > 4
    assert is_alive(second.pid)
    assert wait_until(lambda: system.slots() == [second], "the dead child's slot is gone")


@pytest.mark.parametrize("what", ["broken", "another"])
def test_a_child_that_finds_another_model_file_and_no_snapshot_ends_the_worker_rather_than_dying_for_ever(
    redis_alone: System, models: Path, what: str
) -> None:
    manifest = _digits_manifest(redis_alone, models)
    path = manifest.parent / "digits.keras"
    worker = redis_alone.start_ready_worker(manifest, 1, environ={"CELERIAC_CACHE": "/dev/null/nowhere"})
    _wait_for_ready(worker)
    (slot,) = redis_alone.slots()

    if what == "broken":
        path.write_bytes(b"no model")
    else:
        shutil.copy(models / "pair.keras", path)
    os.kill(slot.pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(slot.pid), "the child is dead")

    assert _exit_code(worker) == ExitCode.MODEL, worker.output()
    (line,) = _our_lines(worker)
    assert line.startswith(f"celeriac: model digits cannot be loaded from {path}: ")
    assert redis_alone.slots() == []


def test_celery_commands_do_not_import_tensorflow(running_system: System) -> None:
    _wait_for_ready(running_system.workers[0])

    ended = subprocess.run(
        [str(BIN / "celery"), "-A", "tasks", "inspect", "ping"],
        env=running_system.environ(PYTHONPROFILEIMPORTTIME="1"),
        cwd=running_system.folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ended.returncode == 0, ended.stderr
    assert "pong" in ended.stdout
    imported = {line.rpartition("|")[2].strip() for line in ended.stderr.splitlines() if "import time:" in line}
    assert "tasks.protocol.messages" in imported
    assert not {name for name in imported if name.partition(".")[0] in ("tensorflow", "keras")}


def _exit_code(worker: Worker) -> int:
    """How a worker ended that must end by itself."""
    wait_until(lambda: worker.process.poll() is not None, "the worker ends")
    return worker.process.returncode


def _wait_for_ready(worker: Worker) -> None:
    """Children are announced a while before Celery takes chunks and commands."""
    wait_until(lambda: " ready." in worker.output(), "the worker is ready")


def _our_lines(worker: Worker) -> list[str]:
    return [line for line in worker.output().splitlines() if line.startswith("celeriac: ")]


def _threads(pid: int) -> int:
    return psutil.Process(pid).num_threads()


def _digits_manifest(system: System, models: Path) -> Path:
    """A copy of one model, for the test to break."""
    shutil.copy(models / "digits.keras", system.folder)
    manifest = system.folder / "models.toml"
    manifest.write_text('[models.digits]\npath = "digits.keras"\n')
    return manifest


def _forget_workers(system: System) -> None:
    """A killed worker's record lives on for a while; what it sent last may still be on its way."""
    with system.admin() as client:
        wait_until(lambda: len(client.client_list()) == 1, "nothing comes of it any more")
        client.flushall()
