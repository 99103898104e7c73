"""Few rows in a smaller batch, where the caller allows it: which one is taken, and what is warm before."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.child.load_model import load_model
from tasks.child.model_runner import ModelRunner
from tasks.child.run_models import ChunkRun
from tasks.executors import EXECUTORS
from tasks.executors.guarded import InputRange
from tasks.models.batches import BatchSize, run_bearable
from tasks.models.model_version import entry_digest
from tasks.models.program import FlatArrays, FlatCall
from tasks.preparation.make_snapshot import make_snapshot
from tasks.preparation.serving_spec import ServingSpec, describe
from tasks.protocol.messages import MESSAGE_VERSION, ChunkMessage, InlineRef, ModelRef
from tasks.protocol.signature import Arrays
from tasks.recovery.poison_rows import RowRange
from tasks.snapshots.record import Snapshot, Trial
from tasks.telemetry.stopwatch import Stopwatch
from tests.models import keras_may_warn
from worker_config.manifest import ModelEntry

SECONDS = {1: 1.0, 8: 4.4, 64: 20.0}


@pytest.mark.parametrize(
    ("count", "rows"), [(0, 1), (1, 1), (4, 1), (5, 8), (8, 8), (9, 8), (32, 8), (33, 64), (64, 64), (100, 64)]
)
def test_the_batch_is_that_in_which_the_rows_take_least(count: int, rows: int) -> None:
    arrays = {"x": np.zeros((count, 3))}
    assert BatchSize(64, seconds=SECONDS).of(arrays, small=True) == rows
    assert BatchSize(64, seconds=SECONDS).of(arrays) == 64


def test_what_is_done_around_a_call_counts() -> None:
    quick = {1: 1e-5, 8: 1e-4, 64: 1e-3}
    size = BatchSize(64, seconds=quick)
    assert [size.of({"x": np.zeros(count)}, small=True) for count in (1, 2, 3, 8)] == [1, 1, 8, 8]


def test_none_is_taken_that_nobody_has_tried_or_memory_does_not_bear() -> None:
    arrays = {"x": np.zeros((8, 100), np.uint8)}
    assert BatchSize(64).of(arrays, small=True) == 64
    assert BatchSize(64, fixed=True, seconds=SECONDS).of(arrays, small=True) == 64
    assert BatchSize(4, seconds=SECONDS).of(arrays, small=True) == 1
    assert BatchSize(64, limit_bytes=500, seconds=SECONDS).of(arrays, small=True) == 1
    assert BatchSize(4, seconds={8: 1.0, 64: 2.0}).of(arrays, small=True) == 4


@given(rows=st.integers(0, 200))
def test_every_row_has_its_own_output_in_batches_of_the_known_shapes(rows: int) -> None:
    shapes = set()

    def model(batch: Arrays) -> Arrays:
        shapes.add(len(batch["x"]))
        return {"y": batch["x"] * 2}

    x = np.arange(float(rows))
    outputs = run_bearable(model, {"x": x}, BatchSize(64, seconds=SECONDS), "m", small=True)
    np.testing.assert_array_equal(outputs["y"], x * 2)
    assert shapes <= set(SECONDS)


def test_rows_that_are_not_for_the_executor_go_through_the_own_graph_without_padding() -> None:
    by_executor, by_own = [], []

    def executor(arrays: Arrays) -> Arrays:
        by_executor.append(len(arrays["x"]))
        return {"y": arrays["x"]}

    def own_graph(arrays: Arrays) -> Arrays:
        by_own.append(len(arrays["x"]))
        return {"y": -arrays["x"]}

    runner = ModelRunner("m", executor, BatchSize(64, seconds=SECONDS), lambda: own_graph, InputRange(limit=10.0))
    x = np.array([*range(8), 1e9], np.float32)
    for small in (True, False):
        outputs = runner.run({"x": x}, small_batches=small)
        np.testing.assert_array_equal(outputs["y"], np.where(x > 10, -x, x))
    assert (by_executor, by_own) == ([8, 8, 64], [1, 64])


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> ServingSpec:
    """A model as a worker has it whose trial has found two smaller batches."""
    import keras

    folder = tmp_path_factory.mktemp("m")
    with keras_may_warn():
        keras.utils.set_random_seed(1)
        keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)]).save(folder / "model.keras")
    entry = ModelEntry(str(folder / "model.keras"), batch_rows=16)
    (folder / "snapshot").mkdir()
    snapshot = make_snapshot(entry, entry_digest(entry), folder / "snapshot")
    trial = Trial("graph", agrees=True, processor_seconds=16.0, small_batches={8: 8.5, 1: 1.5})
    place = str(folder / "snapshot")
    return ServingSpec("m", snapshot.digest, entry, place, snapshot, "graph", trial, 16, files=snapshot.files)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The rows of all calls of the executor."""
    counts: list[int] = []

    def load(folder: Path, snapshot: Snapshot, batch_rows: int, threads: int) -> FlatCall:
        call = graph.load(folder, snapshot, batch_rows, threads)

        def counted(arrays: FlatArrays) -> FlatArrays:
            counts.append(len(arrays[0]))
            return call(arrays)

        counted.keep = call  # type: ignore[attr-defined]
        return counted  # type: ignore[return-value]

    graph = EXECUTORS["graph"]
    monkeypatch.setitem(EXECUTORS, "graph", dataclasses.replace(graph, load=load))
    return counts


def test_a_child_has_called_each_before_its_first_chunk(served: ServingSpec, calls: list[int]) -> None:
    sent = msgspec.json.decode(msgspec.json.encode(served), type=ServingSpec)  # as to a child that comes later
    model = load_model(sent)
    assert calls == [16, 16, 1, 8]
    assert model.info.small_batches == [1, 8]
    described = describe(served)
    assert described
    assert described.small_batches == [1, 8]


def test_a_chunk_takes_whole_batches_unless_it_is_told_otherwise(served: ServingSpec, calls: list[int]) -> None:
    model = load_model(served)
    rows = np.random.default_rng(1).standard_normal((5, 6), np.float32)
    models = [ModelRef("m", served.digest)]
    message = ChunkMessage(MESSAGE_VERSION, "ab" * 6, 0, 0, 5, None, models, InlineRef(b""))
    todo = [RowRange(0, 5, 5)]
    outputs = {}
    for small in (False, True):
        calls.clear()
        model.runner.batch.counts.clear()
        ran = ChunkRun(message, {"m": model}, rows, Stopwatch(), small_batches=small).run(todo, None)
        outputs[small] = ran.outputs["m"]
        assert calls == ([1] * 5 if small else [16])
        counts = model.runner.batch.counts
        assert tuple(counts.values()) == ((5, 5, 5) if small else (1, 5, 16))
    np.testing.assert_allclose(outputs[True], outputs[False], rtol=1e-5, atol=1e-6)


def test_a_machine_that_bears_less_and_a_record_of_before_have_fewer_or_none(served: ServingSpec) -> None:
    assert msgspec.structs.replace(served, batch_rows=8).small_batches == [1]
    assert msgspec.structs.replace(served, batch_rows=8).call_seconds == {1: 1.5, 8: 8.5}
    assert msgspec.structs.replace(served, batch_rows=4).call_seconds == {1: 1.5, 4: 16.0, 8: 8.5}
    old = msgspec.json.decode(b'{"executor": "graph", "agrees": true, "processor_seconds": 1.0}', type=Trial)
    assert msgspec.structs.replace(served, trial=old).call_seconds == {}
    assert msgspec.structs.replace(served, trial=None).small_batches == []
