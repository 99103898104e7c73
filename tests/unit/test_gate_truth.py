"""The gate asks for truth: who is as close to float64 as the own graph is right, and a disturbed network is not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from tasks.accuracy.rounding import LEAST, errors
from tasks.executors import EXECUTORS
from tasks.models.batches import in_batches
from tasks.models.program import plain_call
from tasks.preparation.reference import GateRows, add_truth, compared, make_reference, read_reference
from tasks.snapshots.record import Snapshot
from tests.models import keras_may_warn
from tests.snapshots import keras_program, write_snapshot
from tests.unit.trained_networks import NETWORKS, in_float64
from worker_config.manifest import ModelEntry

BATCH = 16
FLOAT32 = [name for name, executor in EXECUTORS.items() if executor.precision == "float32"]
# TFLite has no loop over a list of tensors.
NOT_BUILT = {("recurrent", "tflite")}


@dataclass
class Network:
    folder: Path
    model: Any
    snapshot: Snapshot
    known: GateRows

    def judged(self, outputs: Sequence[np.ndarray]) -> Any:
        return compared(self.known, "frozen", self.snapshot.entry, outputs)


@pytest.fixture(autouse=True)
def warnings_of_keras() -> Iterator[None]:
    with keras_may_warn():
        yield


@pytest.fixture(scope="module", params=NETWORKS)
def network(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Network:
    folder, entry = tmp_path_factory.mktemp(request.param), ModelEntry(path="m", batch_rows=BATCH)
    with keras_may_warn():
        keras.utils.set_random_seed(3)
        model = NETWORKS[request.param]()
        program = keras_program(folder / "model.keras", model)
        snapshot = write_snapshot(folder, program, entry)
        make_reference(folder, snapshot, plain_call(program), BATCH)
    add_truth(folder, snapshot)
    return Network(folder, model, snapshot, read_reference(folder))


def test_the_truth_is_what_keras_computes_in_float64(network: Network) -> None:
    known = network.known
    assert (known.why, known.no_truth, known.left) == ("", "", [])
    rows = [array.astype(np.float64) if array.dtype == np.float32 else array for array in known.rows]
    [exact] = np.asarray(in_float64(network.model)(rows if len(rows) > 1 else rows[0]))[np.newaxis]
    assert exact.dtype == known.truth[0].dtype == np.float64
    assert len(known.truth[0]) == len(known.rows[0])
    assert errors(exact, known.truth[0]).worst < 1e-9
    assert errors(exact, known.reference[0]).worst > 2e-8


@pytest.mark.parametrize("name", FLOAT32)
def test_who_is_as_close_as_the_own_graph_is_accepted(network: Network, name: str) -> None:
    kind = network.folder.name.rstrip("0123456789")
    if (kind, name) in NOT_BUILT:
        pytest.skip("it is not built of this network")
    executor = EXECUTORS[name]
    if executor.build:
        executor.build(network.folder, network.snapshot, BATCH, network.known.rows)
    call = executor.load(network.folder, network.snapshot, BATCH, 1)
    outputs = in_batches(call, network.known.rows, BATCH)
    own, other = (errors(network.known.truth[0], array) for array in (network.known.reference[0], outputs[0]))
    assert other.worst <= max(LEAST, 2 * own.worst), "or another one is asked for here"
    found = network.judged(outputs)
    assert (found.agrees, found.why) == (True, "")
    assert found.true_error is not None
    assert found.own_error is not None
    assert 0 < found.own_error < 1e-3


def test_one_layer_that_is_off_by_a_thousandth_is_refused(network: Network) -> None:
    rows = network.known.rows if len(network.known.rows) > 1 else network.known.rows[0]
    random = np.random.default_rng(3)
    assert network.judged([np.asarray(network.model(rows))]).agrees, "undisturbed it is right"
    layers = [layer for layer in network.model.layers if layer.get_weights()]
    for layer in layers[:: 1 + len(layers) // 12]:
        weights = layer.get_weights()
        layer.set_weights([array * (1 + 1e-3 * random.choice([-1, 1], array.shape)) for array in weights])
        found = network.judged([np.asarray(network.model(rows))])
        layer.set_weights(weights)
        assert not found.agrees, layer.name
        assert "deviates by" in found.why
