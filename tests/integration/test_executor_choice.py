"""Lower precision in a real worker: used where a trained model's answers stay, else refused with its figures."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from producer import Client
from tasks.executors import EXECUTORS
from tasks.protocol.records import ModelInfo
from tasks.snapshots.record import Trials, from_file
from tests.manifests import write_manifest
from tests.models import in_one_process, keras_may_warn
from tests.systems import System, serving

# Large enough for 8 bits to be worth it.
WIDTH = 1_024
COMMON = {"path": "digits.keras", "calibration": "calibration.npy"}
MODELS = {
    "lower": COMMON | {"precision": ["bfloat16", "int8"], "agreement": 0.99},
    "strict": COMMON | {"precision": ["int8"], "tolerance": 1e-9},
}


@dataclass(frozen=True)
class Digits:
    """A system with a worker that holds one trained model twice, and rows that it was not trained on."""

    system: System
    manifest: Path
    rows: np.ndarray
    truth: np.ndarray

    @property
    def environ(self) -> dict[str, str]:
        return {"XDG_CACHE_HOME": str(self.system.folder)}

    def infos(self) -> dict[str, ModelInfo]:
        (slot, other) = self.system.slots()
        assert [info.executor for info in slot.models] == [info.executor for info in other.models]
        return {info.name: info for info in slot.models}

    def trials(self) -> dict[Path, int]:
        """The files of trials, with their times."""
        found = self.system.folder.glob("celeriac/*/trials-*.json")
        return {path: path.stat().st_mtime_ns for path in found}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Digits]:
    from sklearn.datasets import load_digits

    folder = tmp_path_factory.mktemp("s")
    images, truth = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32)
    write_trained(folder / "digits.keras", images[::2], truth[::2])
    np.save(folder / "calibration.npy", images[::2][:400])
    with serving(folder) as system:
        found = Digits(system, write_manifest(folder, MODELS), images[1::2], truth[1::2])
        system.start_ready_worker(found.manifest, 2, environ=found.environ)
        yield found


@keras_may_warn()
def write_trained(path: Path, images: np.ndarray, truth: np.ndarray) -> None:
    import keras

    keras.utils.set_random_seed(5)
    hidden = [keras.layers.Dense(WIDTH, activation="relu") for _ in range(2)]
    model = keras.Sequential([keras.Input((64,)), *hidden, keras.layers.Dense(10, activation="softmax")])
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(images, truth, batch_size=32, epochs=8, verbose=0)
    model.save(path)


def accuracy(scores: np.ndarray, truth: np.ndarray) -> float:
    return float((scores.argmax(axis=1) == truth).mean())


def test_a_lower_precision_that_agrees_is_used_and_the_accuracy_stays(digits: Digits) -> None:
    info = digits.infos()["lower"]
    assert EXECUTORS[info.executor].precision in ("bfloat16", "int8"), info.note
    assert info.error > 1e-4, "it is another precision"
    assert re.search(rf"{info.executor} has the same largest output for (100\.00|99\.\d\d) % of 400 rows", info.note)
    assert "10 of 10 classes have too few rows to be judged at an agreement of 99 %, which takes 100" in info.note
    expected = in_one_process(digits.manifest.with_name("digits.keras"), digits.rows)
    assert accuracy(expected, digits.truth) > 0.93
    with Client(digits.system.url) as client:
        scores = client.predict("lower", digits.rows, chunk_rows=100)
    assert accuracy(scores, digits.truth) > accuracy(expected, digits.truth) - 0.01
    assert np.mean(scores.argmax(axis=1) == expected.argmax(axis=1)) >= 0.98


def test_one_that_deviates_too_much_is_refused_with_its_figures(digits: Digits) -> None:
    info = digits.infos()["strict"]
    assert EXECUTORS[info.executor].precision == "float32"
    refused = r"int8 deviates by [\d.e-]+ of the outputs' spread on 400 rows, 1e-09 is allowed: float32 is used"
    assert re.fullmatch(refused, info.note)
    with Client(digits.system.url) as client:
        scores = client.predict("strict", digits.rows, chunk_rows=100)
    expected = in_one_process(digits.manifest.with_name("digits.keras"), digits.rows)
    np.testing.assert_allclose(scores, expected, rtol=1e-3, atol=1e-5)


def test_a_second_start_takes_what_the_first_one_has_found(digits: Digits) -> None:
    before, executors = digits.trials(), {name: info.executor for name, info in digits.infos().items()}
    batches = {name: info.small_batches for name, info in digits.infos().items()}
    assert len(before) == 2
    for path in before:
        trials = from_file(path.read_bytes(), Trials)
        assert (trials.rows, trials.rows_in_file) == ("calibration.npy", 400)
        assert all(sum(one.rows for one in trial.classes) == 400 for trial in trials.trials if trial.classes)
        agreeing = {trial.executor for trial in trials.trials if trial.agrees}
        assert agreeing & set(executors.values())
        assert trials.trials[0].small_batches, "64 rows take much longer than one"
        assert any(sorted(trial.small_batches) in batches.values() for trial in trials.trials)
    digits.system.workers[0].stop()
    digits.system.redis.stop()
    digits.system.redis.start()

    worker = digits.system.start_ready_worker(digits.manifest, 2, environ=digits.environ)

    assert {name: info.executor for name, info in digits.infos().items()} == executors
    assert {name: info.small_batches for name, info in digits.infos().items()} == batches
    assert digits.trials() == before
    assert "making a snapshot" not in worker.output()
