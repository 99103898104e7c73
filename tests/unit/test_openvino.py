"""OpenVINO in a child: 8 bits within what they were calibrated with, threads as told, one copy of the weights."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from tasks.child.load_model import load_model
from tasks.executors import EXECUTORS
from tasks.executors.operation_table import CONVERTERS, RUNTIMES
from tasks.models.batches import in_batches
from tasks.models.program import Program, plain_call
from tasks.preparation import trials
from tasks.preparation.benchmark import try_executor
from tasks.preparation.context import PreparationContext
from tasks.preparation.reference import GateRows, gate_rows
from tasks.preparation.serving_spec import ServingSpec
from tasks.protocol.records import TensorSpec
from tasks.snapshots.installed import installed
from tasks.snapshots.record import Snapshot, Trial
from tests.models import keras_may_warn
from tests.snapshots import keras_program, write_snapshot
from worker_config.manifest import ModelEntry

BATCH, WIDTH = 16, 2048
pytestmark = pytest.mark.skipif(not installed("openvino"), reason="openvino is not installed")
with_nncf = pytest.mark.skipif(not installed(CONVERTERS["openvino_int8"]), reason="nncf is not installed")


@dataclass(frozen=True)
class Quantised:
    """A model with 8 bits, of which trials have found what it may be given."""

    folder: Path
    snapshot: Snapshot
    program: Program
    reference: GateRows
    trial: Trial

    def bare(self, *rows: Any) -> Any:
        call = EXECUTORS["openvino_int8"].load(self.folder, self.snapshot, BATCH, 1)
        return in_batches(call, list(rows), BATCH)[0]

    def in_child(self, **rows: Any) -> Any:
        """As a child gives them that has loaded it by the executor."""
        served = ServingSpec(
            "m",
            self.snapshot.digest,
            self.snapshot.entry,
            str(self.folder),
            self.snapshot,
            "openvino_int8",
            self.trial,
            BATCH,
        )
        return load_model(served).predict(rows)

    def own_graph(self, *rows: Any) -> Any:
        call = EXECUTORS["graph"].load(self.folder, self.snapshot, BATCH, 1)
        return in_batches(call, list(rows), BATCH)[0]


def quantised(folder: Path, model: Any, calibration: Path, **keys: Any) -> Quantised:
    entry = ModelEntry(
        path="m", batch_rows=BATCH, precision=["int8"], calibration=str(calibration), tolerance=0.3, **keys
    )
    program = keras_program(folder / "model.keras", model)
    snapshot = write_snapshot(folder / "snapshot", program, entry)
    reference = gate_rows(plain_call(program), program.inputs, entry, BATCH)
    trial = try_executor("openvino_int8", folder / "snapshot", snapshot, BATCH, 1, reference)
    return Quantised(folder / "snapshot", snapshot, program, reference, trial)


@pytest.fixture(autouse=True)
def warnings_of_keras() -> Iterator[None]:
    with keras_may_warn():
        yield


@with_nncf
def test_8_bits_stay_within_the_tolerance_and_never_see_rows_beyond_those_of_the_calibration(tmp_path: Path) -> None:
    import keras
    from keras import layers

    keras.utils.set_random_seed(3)
    hidden = [layers.Dense(64, activation="relu") for _ in range(2)]
    rows = np.random.default_rng(4).uniform(-1, 1, (200, 32)).astype(np.float32)
    np.save(tmp_path / "rows.npy", rows)
    model = keras.Sequential([keras.Input((32,), name="x"), *hidden, layers.Dense(4)])
    found = quantised(tmp_path, model, tmp_path / "rows.npy")

    assert (found.trial.agrees, found.trial.why) == (True, "")
    assert 1e-4 < (found.trial.error or 0) < 0.3, "it is another precision"
    assert found.trial.limit == np.abs(rows).max()
    wanted = found.own_graph(rows)
    spread = wanted.std()
    assert np.abs(found.bare(rows) - wanted).max() < 0.3 * spread
    beyond = np.concatenate([rows[:30], 9 * rows[30:35]])
    wanted = found.own_graph(beyond)
    assert np.abs(found.bare(beyond) - wanted)[30:].max() > 2 * spread, "it cuts off what it does not know"
    given = found.in_child(x=beyond)
    np.testing.assert_allclose(given[30:], wanted[30:], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(given[:30], found.bare(beyond)[:30])


@with_nncf
def test_8_bits_never_see_larger_integers_than_those_of_the_calibration(tmp_path: Path) -> None:
    import keras
    from keras import layers

    keras.utils.set_random_seed(3)
    pixels = keras.Input((16,), dtype="uint8", name="x")
    hidden = layers.Dense(32, activation="relu")(layers.Rescaling(1 / 255)(pixels))
    rows = np.random.default_rng(4).integers(0, 101, (200, 16), np.uint8)
    rows[0, 0] = 100
    np.save(tmp_path / "rows.npy", rows)
    found = quantised(tmp_path, keras.Model(pixels, layers.Dense(3)(hidden)), tmp_path / "rows.npy")

    assert (found.trial.agrees, found.trial.integers) == (True, 100), found.trial.why
    beyond = rows[:40].copy()
    beyond[7] = 255
    wanted = found.own_graph(beyond)
    assert np.abs(found.bare(beyond) - wanted)[7].max() > 0.1
    np.testing.assert_allclose(found.in_child(x=beyond)[7], wanted[7], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [name for name, package in RUNTIMES.items() if package == "openvino"])
def test_a_model_without_products_is_none_for_8_bits(tmp_path: Path, name: str) -> None:
    spec = TensorSpec("x", "float32", (None, 3))
    program = Program([spec], [TensorSpec("y", "float32", (None, 3))], run=lambda tensors: [abs(tensors[0])])
    snapshot = write_snapshot(tmp_path, program, ModelEntry(path="m"))
    if name != "openvino_int8":
        EXECUTORS[name].build(tmp_path, snapshot, BATCH, [])  # type: ignore[misc]
    elif installed("nncf"):
        rows = [np.ones((BATCH, 3), np.float32)]
        with pytest.raises(ValueError, match="nothing in the model is computed in 8 bits"):
            EXECUTORS[name].build(tmp_path, snapshot, BATCH, rows)  # type: ignore[misc]


def wide(folder: Path, name: str = "openvino") -> Snapshot:
    """A product with 16 MiB of weights, built for an executor."""
    import tensorflow as tf

    matrix = tf.Variable(tf.random.stateless_normal([WIDTH, WIDTH], [1, 2]))
    program = Program(
        [TensorSpec("x", "float32", (None, WIDTH))],
        [TensorSpec("y", "float32", (None, WIDTH))],
        run=lambda tensors: [tf.matmul(tensors[0], matrix)],
        variables=[matrix],
    )
    snapshot = write_snapshot(folder, program, ModelEntry(path="m"))
    EXECUTORS[name].build(folder, snapshot, BATCH, [])  # type: ignore[misc]
    return snapshot


@pytest.mark.parametrize(("name", "copies"), [("openvino", 1.0), ("openvino_bfloat16", 1.0), ("tflite", 0.0)])
def test_weights_that_are_packed_in_each_child_count_once_as_its_own(tmp_path: Path, name: str, copies: float) -> None:
    try:
        snapshot = wide(tmp_path, name)
        EXECUTORS[name].load(tmp_path, snapshot, BATCH, 1)
    except ValueError as error:
        pytest.skip(str(error))  # this processor has no bfloat16
    (tmp_path / "snapshot").write_bytes(msgspec.msgpack.encode(snapshot))
    command = [sys.executable, "-c", _GROWN, str(tmp_path), name]
    for grown in subprocess.run(command, capture_output=True, text=True, check=True).stdout.split():
        assert abs(int(grown) / (4 * WIDTH**2) - copies) < 0.4


# What trials measure, and what is held against `memory_limit`, in a process that has no freed memory to take again; the
# file that weights are read from is mapped.
_GROWN = f"""
import pathlib, sys, msgspec, numpy
from tasks.executors import EXECUTORS
from tasks.models.memory import give_back, own_bytes
from tasks.preparation.benchmark import private_bytes
from tasks.snapshots.record import Snapshot
folder, rows = pathlib.Path(sys.argv[1]), numpy.ones(({BATCH}, {WIDTH}), numpy.float32)
snapshot = msgspec.msgpack.decode((folder / "snapshot").read_bytes(), type=Snapshot)
def load():
    call = EXECUTORS[sys.argv[2]].load(folder, snapshot, {BATCH}, 1)
    call([rows])
    give_back()
    return call
first = load()  # what the runtime itself takes
trial, child = private_bytes(), own_bytes()
second = load()
print(private_bytes() - trial, own_bytes() - child)
"""


def test_all_models_of_a_process_are_of_one_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import openvino

    snapshot, rows = wide(tmp_path), np.ones((BATCH, WIDTH), np.float32)
    first = EXECUTORS["openvino"].load(tmp_path, snapshot, BATCH, 1)
    monkeypatch.setattr(openvino, "Core", None)  # whoever makes another one fails
    second = EXECUTORS["openvino"].load(tmp_path, snapshot, BATCH, 1)
    np.testing.assert_array_equal(second([rows])[0], first([rows])[0])


@pytest.mark.parametrize("threads", [1, 2])
def test_as_many_threads_compute_as_a_child_is_told(tmp_path: Path, threads: int) -> None:
    call = EXECUTORS["openvino"].load(tmp_path, wide(tmp_path), BATCH, threads)
    rows = [np.ones((BATCH, WIDTH), np.float32)]
    call(rows)
    before, used = _ticks_of_threads(), {"none": 0}
    while sum(used.values()) < 100:  # beside which what threads of other tests still do is little
        call(rows)
        used = {thread: ticks - before.get(thread, 0) for thread, ticks in _ticks_of_threads().items()}
    busy = [ticks for ticks in used.values() if ticks > 0.2 * sum(used.values())]
    assert 1 <= len(busy) <= threads, used


def _ticks_of_threads() -> dict[str, int]:
    """Of the processor, by thread of this process."""
    found = {}
    for thread in Path("/proc/self/task").iterdir():
        fields = (thread / "stat").read_text().rpartition(")")[2].split()
        found[thread.name] = int(fields[11]) + int(fields[12])
    return found


@pytest.mark.parametrize("name", ["tflite", "openvino"])
def test_of_an_operation_that_a_runtime_lacks_it_says_so_in_one_line(tmp_path: Path, name: str) -> None:
    import tensorflow as tf

    specs = [TensorSpec("x", "float32", (None, 3))], [TensorSpec("y", "float32", (None, 3))]
    program = Program(*specs, run=lambda tensors: [tf.math.bessel_i0e(tensors[0]) + tf.math.bessel_i1e(tensors[0])])
    snapshot = write_snapshot(tmp_path, program, ModelEntry(path="m"))
    rows = [np.random.default_rng(2).random((BATCH, 3), np.float32)]
    trial = try_executor(name, tmp_path, snapshot, BATCH, 1, GateRows("rows", rows, plain_call(program)(rows)))
    assert (trial.agrees, trial.why) == (False, "it has no operation for BesselI0e, BesselI1e")


def test_what_was_installed_since_is_tried_with_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def attempt(name: str, *_: Any) -> Trial:
        tried.append(name)
        return Trial(name, agrees=True)

    spec = TensorSpec("x", "float32", (None, 3))
    snapshot = Snapshot(1, "mapped", "d", "2", ModelEntry(path="m"), [spec], [spec], [], 9, {})
    context = PreparationContext(tmp_path, 10**9, 1, 1, 0, say=print)
    monkeypatch.setattr(trials, "_try", attempt)
    monkeypatch.setattr(trials, "read_reference", lambda folder: GateRows("generated", reference=[np.ones(2)]))
    for names in (["graph", "tflite"], ["graph", "tflite"], ["graph", "tflite", "openvino"], ["graph", "tflite"]):
        monkeypatch.setattr(trials, "candidates", lambda *_, names=names: (names, {}))
        found = trials.trials_here("m", tmp_path, snapshot, snapshot.entry, context)
        assert {trial.executor for trial in found.trials} >= set(names)
    assert tried == ["graph", "tflite", "graph", "tflite", "openvino"]


def test_what_cannot_be_built_in_the_memory_that_is_free_is_tried_when_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []
    said: list[str] = []

    def attempt(name: str, *_: Any) -> Trial:
        tried.append(name)
        return Trial(name, agrees=True)

    spec = TensorSpec("x", "float32", (None, 3))
    snapshot = Snapshot(1, "mapped", "d", "2", ModelEntry(path="m"), [spec], [spec], [], 10**9, {})
    context = PreparationContext(tmp_path, 10**9, 1, 1, 0, say=said.append)
    monkeypatch.setattr(trials, "_try", attempt)
    monkeypatch.setattr(trials, "read_reference", lambda folder: GateRows("generated", reference=[np.ones(2)]))
    monkeypatch.setattr(trials, "candidates", lambda *_: (["graph", "xla", "frozen", "tflite"], {}))
    for free in (13e9, 11e9, 26e9, 1e9):
        monkeypatch.setattr(trials, "available_bytes", lambda free=free: int(free))
        trials.trials_here("m", tmp_path, snapshot, snapshot.entry, context)
    assert tried == ["graph", "xla", "frozen", "graph", "xla", "frozen", "tflite"]
    lacking = "model m: tflite is not tried: to build it takes 25.0 GB of memory, more than is free"
    assert [line for line in said if "not tried" in line] == [lacking]
