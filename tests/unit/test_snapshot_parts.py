"""Parts of the model set that need no worker: the cache, forked processes, shares of a machine, batches that halve."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tasks.models import devices
from tasks.models.batches import BatchSize, run_bearable
from tasks.models.memory import available_bytes
from tasks.preparation.model_set import Generation, ModelSet
from tasks.preparation.serving_spec import ServingSpec
from tasks.preparation.trials import clear_built
from tasks.protocol.messages import ModelRef
from tasks.protocol.records import OlderSet
from tasks.snapshots import cache
from tasks.snapshots.executor_notes import ExecutorNotes
from tasks.snapshots.file_stamps import check_changed, stamps_of
from tasks.snapshots.forked_call import Forked, ForkedError, run_forked
from tasks.snapshots.record import BUILT, Snapshot, Trials, to_file
from tasks.transport.run_folder import model_path
from tests.waiting import wait_until
from worker_config.manifest import ModelEntry
from worker_config.retry_policy import REPLACED_GRACE_SECONDS

ENTRY = ModelEntry("/nowhere/a.keras")


def make(folder: Path, key: str, size: int = 100) -> Path:
    with cache.making(folder, key) as place:
        (place / "weights.bin").write_bytes(os.urandom(size))
        files = cache.fingerprints(place)
        snapshot = Snapshot(cache.FORMAT_VERSION, "mapped", "d", "2", ENTRY, [], [], [], size, files)
        (place / cache.RECORD).write_bytes(to_file(snapshot))
    return folder / key


def flip_bit(path: Path, word: bytes) -> None:
    """Turn the last bit of a word's first byte."""
    data = bytearray(path.read_bytes())
    data[data.index(word)] ^= 1
    path.write_bytes(data)


def test_files_are_read_again_only_where_somebody_has_written_to_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make(tmp_path, "k")
    files = cache.fingerprints(folder)
    stamps = stamps_of(folder, files)
    assert sorted(stamps) == ["in-use", "snapshot.json", "weights.bin"]
    hashed: list[str] = []
    written = max(stamp[3] for stamp in stamps.values())
    probe = tmp_path / "probe"
    # The kernel's clock of files goes in steps.
    wait_until(lambda: probe.touch() or probe.stat().st_ctime_ns > written, "files get another time")

    def fingerprint(path: Path) -> tuple[int, str]:
        hashed.append(path.name)
        return path.stat().st_size, cache.file_digest(path).hex()

    monkeypatch.setattr(cache, "fingerprint", fingerprint)
    check_changed(folder, files, stamps)
    assert hashed == []
    (folder / "weights.bin").touch()
    check_changed(folder, files, stamps)
    assert hashed == ["weights.bin"]

    times = (folder / "weights.bin").stat()
    flip_bit(folder / "weights.bin", (folder / "weights.bin").read_bytes()[50:])
    os.utime(folder / "weights.bin", ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(ValueError, match=r"weights\.bin is damaged"):
        check_changed(folder, files, stamps)
    (folder / "weights.bin").unlink()
    with pytest.raises(ValueError, match=r"weights\.bin cannot be read"):
        check_changed(folder, files, stamps)
    hashed.clear()
    with pytest.raises(ValueError, match=r"weights\.bin"):
        check_changed(folder, files, {})
    assert len(hashed) == 3, "without stamps all are read"


def test_a_snapshot_is_found_again_by_its_key_alone(tmp_path: Path) -> None:
    folder = make(tmp_path, "k")
    found = cache.read(folder)
    assert found is not None
    assert found.entry == ENTRY
    assert cache.read(tmp_path / "other") is None
    keys = {
        cache.cache_key("d", ENTRY, "2.21"),
        cache.cache_key("e", ENTRY, "2.21"),
        cache.cache_key("d", ENTRY, "2.22"),
        cache.cache_key("d", ModelEntry("x", batch_rows=3), "2.21"),
    }
    assert len(keys) == 4
    assert cache.cache_key("d", ModelEntry("elsewhere"), "2.21") in keys


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (lambda folder: (folder / "weights.bin").write_bytes(b"x" * 100), "weights.bin is damaged"),
        (lambda folder: (folder / "weights.bin").unlink(), "weights.bin cannot be read"),
        (lambda folder: (folder / "weights.bin").write_bytes(b""), "weights.bin is damaged"),
        (lambda folder: (folder / cache.RECORD).write_bytes(b"{}"), "snapshot.json is damaged"),
        (lambda folder: (folder / cache.RECORD).unlink(), "snapshot.json is missing"),
        (lambda folder: flip_bit(folder / cache.RECORD, b"nowhere"), "snapshot.json is damaged"),
    ],
)
def test_damage_is_told(tmp_path: Path, damage: object, word: str) -> None:
    folder = make(tmp_path, "k")
    damage(folder)  # type: ignore[operator]
    with pytest.raises(ValueError, match=word):
        cache.read(folder)


def test_what_was_not_finished_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with cache.making(tmp_path, "k") as place:
            (place / "weights.bin").touch()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_new_trials_leave_what_a_worker_with_other_threads_has_found(tmp_path: Path) -> None:
    for name in ("found", "damaged", "turned", "orphan"):
        (tmp_path / BUILT).mkdir(exist_ok=True)
        (tmp_path / BUILT / name).write_text(name)
    for name in ("found", "damaged", "turned"):
        trials = Trials([], "generated", {f"{BUILT}/{name}": cache.fingerprint(tmp_path / BUILT / name)})
        (tmp_path / f"trials-{name}.json").write_bytes(to_file(trials))
    (tmp_path / BUILT / "damaged").write_text("other bytes")
    flip_bit(tmp_path / "trials-turned.json", b"generated")
    clear_built(tmp_path)
    assert [path.name for path in (tmp_path / BUILT).iterdir()] == ["found"]


def test_the_cache_gives_up_what_was_used_longest_ago_and_is_not_in_use(tmp_path: Path) -> None:
    folders = {name: make(tmp_path, name, 1_000) for name in ("old", "held", "kept", "new")}
    (folders["old"] / cache.RECORD).rename(folders["old"] / "fetched.json")  # a copy of a model behind a URL
    for age, name in enumerate(("new", "kept", "held", "old")):
        os.utime(folders[name] / "in-use", (1_000 - age, 1_000 - age))

    descriptor = cache.use(folders["held"])
    try:
        os.utime(folders["held"] / "in-use", (10, 10))
        removed = cache.prune(tmp_path, 2_000, keep=["kept"])
        assert [key for key, _ in removed] == ["old", "new"]
        assert {path.name for path in tmp_path.iterdir()} == {"held", "kept"}
    finally:
        os.close(descriptor)
    assert [key for key, _ in cache.prune(tmp_path, 0)] == ["held", "kept"]
    assert cache.prune(tmp_path / "none", 0) == []


class TestSweep:
    """Keys are as real ones: whatever else stands in the folder is not ours."""

    needed, held, old, bare, made = (letter * 32 for letter in "abcde")

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        for key in (self.needed, self.held, self.old):
            make(tmp_path, key, 1_000)
            (tmp_path / f"{key}.log").write_bytes(b"x" * 10)
            (tmp_path / f"{key}.lock").touch()
        (tmp_path / f"{self.bare}.lock").touch()
        (tmp_path / f".making-{self.made}").mkdir()
        (tmp_path / f".making-{self.made}" / "half").write_bytes(b"x" * 100)
        (tmp_path / f".making-{self.old}-gone-17").mkdir()
        (tmp_path / "notes.txt").touch()
        (tmp_path / ("f" * 32)).mkdir()  # no snapshot
        return tmp_path

    def test_what_nobody_needs_goes_with_all_leftovers(self, folder: Path) -> None:
        descriptor = cache.use(folder / self.held)
        try:
            swept = {one.key: one for one in cache.sweep(folder, [self.needed])}
        finally:
            os.close(descriptor)
        left = {path.name for path in folder.iterdir()}
        stay = {f"{key}{suffix}" for key in (self.needed, self.held) for suffix in ("", ".lock")}
        assert left == {*stay, "notes.txt", "f" * 32}
        assert set(swept) == {self.needed, self.held, self.old, self.bare, self.made}
        assert (swept[self.held].source, swept[self.held].bytes) == ("", 10)
        assert swept[self.old].source == ENTRY.path
        assert swept[self.old].bytes > 1_010
        assert (swept[self.made].bytes, swept[self.bare].bytes) == (100, 0)
        assert cache.sweep(folder, [self.needed, self.held]) == []
        assert cache.sweep(folder / "none", []) == []

    def test_a_damaged_snapshot_goes_too(self, folder: Path) -> None:
        (folder / self.old / cache.RECORD).unlink()
        assert self.old in {one.key for one in cache.sweep(folder, [self.needed, self.held])}
        assert not (folder / self.old).exists()

    def test_what_is_being_made_or_tried_stays(self, folder: Path) -> None:
        with cache.locked(folder, self.made), cache.locked(folder, self.old):
            swept = {one.key for one in cache.sweep(folder, [])}
            assert cache.prune(folder, 0) == []
        assert not swept & {self.made, self.old}
        assert (folder / f".making-{self.made}" / "half").exists()
        assert (folder / self.old / cache.RECORD).exists()

    def test_who_waits_for_a_lock_whose_file_is_removed_locks_the_new_one(self, folder: Path) -> None:
        path = folder / f"{self.old}.lock"
        with ThreadPoolExecutor(1) as threads:
            with cache.locked(folder, self.old):
                entered, leave = threading.Event(), threading.Event()

                def wait() -> bool:
                    with cache.locked(folder, self.old) as waited:
                        entered.set()
                        assert leave.wait(60)
                        return waited

                waiting = threads.submit(wait)
                wait_until(lambda: _is_waited_for(path), "the other one waits")
                path.unlink()
            assert entered.wait(60)
            try:
                assert cache.sweep(folder, [self.needed, self.held]) != []
                assert (folder / self.old).exists(), "somebody holds it"
            finally:
                leave.set()
            assert waiting.result(60) is True


def _is_waited_for(path: Path) -> bool:
    """Whether somebody waits for a lock on a file, as the kernel lists it."""
    inode = f":{path.stat().st_ino} "
    return any("->" in line and inode in line for line in Path("/proc/locks").read_text().splitlines())


def test_a_forked_process_gives_back_its_result_its_error_or_how_it_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"

    def shout() -> list[int]:
        print("heard in the log alone")
        return list(range(100_000))

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert run_forked(lambda: tempfile.mkstemp()[1], str, log).startswith(f"{tmp_path}/celeriac-")
    assert list(tmp_path.iterdir()) == [log], "temporary files are gone"
    assert run_forked(shout, list[int], log) == list(range(100_000))
    assert "heard in the log alone" in log.read_text()
    with pytest.raises(ForkedError, match="ZeroDivisionError: "):
        run_forked(lambda: 1 // 0, int, log)
    with pytest.raises(ForkedError, match="was killed by signal SIGKILL"):
        run_forked(lambda: os.kill(os.getpid(), signal.SIGKILL), int, log)
    with pytest.raises(ForkedError, match="SystemExit"):
        run_forked(sys.exit, int, log)
    with pytest.raises(ForkedError, match=r"it was not done after 0 seconds"):
        run_forked(lambda: signal.pause(), int, log, 0.2)
    meanwhile = Forked(lambda: "x" * 1_000_000, str, log)
    wait_until(meanwhile.is_done, "it is done")
    assert len(meanwhile.result()) == 1_000_000


def test_child_k_gets_gpu_k_modulo_their_number(tmp_path: Path) -> None:
    for name in ("0000:01:00.0", "0000:02:00.0", "0000:03:00.0"):
        (tmp_path / name).mkdir()
    assert devices.gpus({}, tmp_path) == ["0", "1", "2"]
    assert devices.gpus({}, tmp_path / "none") == []
    assert devices.gpus({"CUDA_VISIBLE_DEVICES": ""}, tmp_path) == []
    assert devices.gpus({"CUDA_VISIBLE_DEVICES": "-1"}, tmp_path) == []
    found = devices.gpus({"CUDA_VISIBLE_DEVICES": "2,GPU-8932f937"}, tmp_path)
    assert [devices.gpu_of(slot, found) for slot in range(3)] == ["2", "GPU-8932f937", "2"]
    assert devices.gpu_of(0, []) is None


def test_a_child_settles_on_its_gpu_before_tensorflow_looks_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorflow as tf

    seen: list[object] = []

    def listed(kind: str = "all") -> list[str]:
        seen.append((kind, os.environ["CUDA_VISIBLE_DEVICES"]))
        return ["the only one"]

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    monkeypatch.setattr(tf.config, "list_physical_devices", listed)
    monkeypatch.setattr(
        tf.config.experimental, "set_memory_growth", lambda device, enable: seen.append((device, enable))
    )
    monkeypatch.setattr(devices, "limit_threads", lambda threads: seen.append(threads))
    devices.settle(3, threads=2, pin_cores=False)
    assert seen == [2, ("all", "5"), ("GPU", "5"), ("the only one", True)]
    seen.clear()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    devices.settle(3, threads=2, pin_cores=False)
    assert seen == [2, ("all", "")]


def test_only_what_runs_on_it_and_functions_that_mention_it_need_tensorflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "with_keras.py").write_text("import keras\n")
    (tmp_path / "with_numpy.py").write_text("import numpy\n")
    monkeypatch.chdir(tmp_path)

    def needs(executor: str = "plain", *members: ServingSpec, unproven: Sequence[str] = (), **entry: str) -> bool:
        return spec(executor, *members, unproven=unproven, **entry).needs_tensorflow

    def spec(executor: str, *members: ServingSpec, unproven: Sequence[str] = (), **entry: str) -> ServingSpec:
        model = ModelEntry(**entry)  # type: ignore[arg-type]
        return ServingSpec("m", "d", model, executor=executor, members=list(members), unproven=list(unproven))

    assert not needs(path="with_numpy:one")
    assert not needs(preprocess="with_numpy:two")
    assert not needs(preprocess="not_there:one")
    assert needs(path="with_keras:one")
    assert needs(preprocess="with_numpy:one", postprocess="with_keras:two")
    assert needs(path="digits.keras")
    assert needs("frozen", path="digits.keras")
    assert not needs(path="digits.tflite")
    for executor in ("tflite", "int8", "openvino", "openvino_bfloat16", "openvino_int8"):
        assert not needs(executor, path="digits.keras")
        assert needs(executor, path="digits.keras", unproven=["Erf"]), "it is held against the own graph in each job"
        assert needs(executor, path="digits.keras", postprocess="with_keras:two")
    step, own_graph = spec("plain", preprocess="with_numpy:two"), spec("graph", path="digits.keras")
    assert not needs("plain", step, spec("tflite", path="digits.keras"))
    assert needs("plain", step, own_graph)


def test_children_have_cores_of_their_own_as_far_as_there_are_some() -> None:
    cores = [0, 2, 4, 6]
    assert [devices.cores_of(slot, cores, 2) for slot in range(3)] == [{0, 2}, {4, 6}, {0, 2}]
    assert devices.cores_of(1, [5], 4) == {5}


def test_a_container_s_limit_counts(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("400\n")
    assert available_bytes(tmp_path) == 600
    (tmp_path / "memory.max").write_text("max\n")
    assert available_bytes(tmp_path) > 600
    assert available_bytes(tmp_path / "none") > 600


class TestBatches:
    """A model that bears so many rows at once, and no more."""

    bears = 10

    def call(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if len(arrays["x"]) > self.bears:
            raise MemoryError("too much")
        return {"y": arrays["x"] * 2}

    def test_too_large_a_batch_is_halved_until_it_fits_and_stays_so(self) -> None:
        noted: list[int] = []
        size = BatchSize(64, remember=noted.append)
        rows = np.arange(100.0)
        np.testing.assert_array_equal(run_bearable(self.call, {"x": rows}, size, "m")["y"], rows * 2)
        assert (size.rows, noted) == (8, [8])
        run_bearable(self.call, {"x": rows}, size, "m")
        assert noted == [8]

    def test_a_row_that_no_batch_bears_is_an_error_and_no_reason_for_smaller_batches(self) -> None:
        self.bears = 0
        size = BatchSize(64, remember=pytest.fail)
        with pytest.raises(MemoryError):
            run_bearable(self.call, {"x": np.arange(3.0)}, size, "m")
        assert size.rows == 64

    def test_a_model_that_takes_no_other_batch_is_left_alone(self) -> None:
        with pytest.raises(MemoryError):
            run_bearable(self.call, {"x": np.arange(3.0)}, BatchSize(64, fixed=True), "m")

    def test_the_size_is_found_again_on_this_machine(self, tmp_path: Path) -> None:
        notes = ExecutorNotes(tmp_path, "graph")
        assert notes.batch_rows(64) == 64
        notes.note_batch_rows(8)
        assert notes.batch_rows(64) == 8
        assert notes.batch_rows(4) == 4
        assert ExecutorNotes(tmp_path, "frozen").batch_rows(64) == 64
        ExecutorNotes(tmp_path / "none", "graph").note_batch_rows(8)


def test_versions_are_given_up_when_no_job_is_pinned_to_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def served(digest: str) -> dict[str, ServingSpec]:
        return {"m": ServingSpec("m", digest * 64, ENTRY)}

    now = [1000.0]
    monkeypatch.setattr("tasks.preparation.model_set.time.monotonic", lambda: now[0])
    models = ModelSet(tmp_path, Generation(served("a"), [1]))
    models.publish()
    first = models.current.queue
    models.replace(served("b"), [2])
    second = models.current.queue
    models.replace(served("c"), [3])
    a, b = ([ModelRef("m", digest * 64)] for digest in "ab")
    assert models.older_sets() == [OlderSet(first, a), OlderSet(second, b)]
    closed: list[int] = []

    assert models.forget({"m@aaaaaaaa"}, closed.append) == []
    now[0] += REPLACED_GRACE_SECONDS + 1
    assert models.forget({"m@aaaaaaaa"}, closed.append) == [second]
    assert (closed, models.older_sets()) == ([2], [OlderSet(first, a)])
    assert not model_path(tmp_path, ModelRef("m", "b" * 64)).exists()
    assert models.forget(set(), closed.append) == [first]
    assert model_path(tmp_path, ModelRef("m", "c" * 64)).exists()
    # Back to what was served before: nothing of it may be given up with the older generation.
    models.replace(served("d"), [4])
    models.replace(served("c"), [5])
    now[0] += REPLACED_GRACE_SECONDS + 1
    assert len(models.forget(set(), closed.append)) == 1
    assert model_path(tmp_path, ModelRef("m", "c" * 64)).exists()
