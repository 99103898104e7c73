"""Snapshots: made once, shared by all children, never used by halves, made again when they are damaged."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from producer import Client
from tasks.protocol.records import SlotRecord
from tests.forms import in_long_form
from tests.manifests import write_manifest
from tests.models import keras_may_warn
from tests.systems import REPOSITORY, System, Worker
from tests.waiting import wait_until

ROWS = 200
WIDTH = 2_048
WEIGHT_BYTES = 4 * (64 * WIDTH + WIDTH + WIDTH * WIDTH + WIDTH + WIDTH * 10 + 10)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with weights that are worth sharing."""
    import keras

    keras.utils.set_random_seed(3)
    layers = keras.layers
    model = keras.Sequential(
        [keras.Input((64,)), layers.Dense(WIDTH, activation="tanh"), layers.Dense(WIDTH, activation="tanh")]
    )
    model.add(layers.Dense(10))
    path = tmp_path_factory.mktemp("wide") / "wide.keras"
    with keras_may_warn():
        model.save(path)
    return path


@pytest.fixture
def manifest(system: System, wide: Path) -> Path:
    """In a folder of the test's own, with a cache of its own."""
    shutil.copy(wide, system.folder)
    return write_manifest(system.folder, {"wide": {"path": "wide.keras", "prefer": "memory"}})


@pytest.fixture
def cache(system: System, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = system.folder / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder / "celeriac"


@pytest.fixture
def rows() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((ROWS, 64), np.float32)


def test_two_workers_that_start_together_make_a_snapshot_once_and_share_its_weights(
    system: System, manifest: Path, cache: Path, rows: np.ndarray, wide: Path
) -> None:
    workers = [system.start_worker(manifest, 2, "-n", f"worker{number}@%h") for number in range(2)]
    wait_until(lambda: len(system.slots()) == 4, "all children are ready")

    assert sorted(_said(worker, "making a snapshot") for worker in workers) == [0, 1]
    (info,) = {slot.models[0].name: slot.models[0] for slot in system.slots()}.values()
    # Small constants of a frozen graph stand in the graph, and packed weights have a head.
    least = 0.99 * WEIGHT_BYTES if info.executor == "frozen" else WEIGHT_BYTES
    most = 1.01 * WEIGHT_BYTES if info.executor == "tflite" else WEIGHT_BYTES
    assert least <= info.shared_bytes <= most
    with Client(system.url) as client:
        outputs = client.predict("wide", rows, chunk_rows=7)
    _check_equal(outputs, _loaded_plainly(system, wide, rows), info.executor)
    own = [_weights_in(slot) for slot in system.slots()]
    # Four copies would be four times the weights.
    assert sum(own) < 1.15 * WEIGHT_BYTES, own


def test_a_damaged_snapshot_is_made_again(system: System, manifest: Path, cache: Path, rows: np.ndarray) -> None:
    first = system.start_ready_worker(manifest, 1)
    with Client(system.url) as client:
        expected = client.predict("wide", rows)
    first.stop()
    (weights,) = cache.glob("*/weights.bin")
    with weights.open("r+b") as file:
        file.seek(WEIGHT_BYTES // 2)
        file.write(b"\xff\xfe\xfd")
    system.redis.stop()
    system.redis.start()

    second = system.start_ready_worker(manifest, 1)

    assert _said(second, "model wide: its snapshot", "weights.bin is damaged; it is made again") == 1
    with Client(system.url) as client:
        # Tried again, another executor may have come out as the fastest.
        np.testing.assert_allclose(client.predict("wide", rows), expected, rtol=1e-4, atol=1e-5)


@in_long_form
def test_a_snapshot_whose_maker_was_killed_is_never_used(system: System, manifest: Path, cache: Path) -> None:
    killed = system.start_worker(manifest, 1)
    wait_until(lambda: list(cache.glob(".making-*/model")), "a snapshot is half made")
    killed.stop()
    assert not [path for path in cache.iterdir() if path.is_dir() and not path.name.startswith(".")]

    worker = system.start_ready_worker(manifest, 1)

    assert _said(worker, "making a snapshot") == 1
    assert not list(cache.glob(".making-*"))


def test_a_child_that_comes_later_has_the_version_that_the_worker_began_with(
    system: System, manifest: Path, cache: Path, rows: np.ndarray, models: Path
) -> None:
    system.start_ready_worker(manifest, 1)
    (slot,) = system.slots()
    with Client(system.url) as client:
        expected = client.predict("wide", rows)
        shutil.copy(models / "pair.keras", manifest.parent / "wide.keras")

        os.kill(slot.pid, signal.SIGKILL)
        wait_until(lambda: [one for one in system.slots() if one.pid != slot.pid], "another child is in its place")

        np.testing.assert_array_equal(client.predict("wide", rows), expected)


@pytest.mark.parametrize("is_killed", [True, False])
def test_a_bit_that_turns_under_a_worker_costs_the_worker_and_no_wrong_value(
    system: System, manifest: Path, cache: Path, rows: np.ndarray, is_killed: bool
) -> None:
    """The file is the memory of the children that run, and the model of those to come."""
    first = system.start_ready_worker(manifest, 1)
    (slot,) = system.slots()
    with Client(system.url) as client:
        expected = client.predict("wide", rows)
        flip_a_bit(next(cache.glob("*/weights.bin")), np.random.default_rng(int(is_killed)))
        if is_killed:
            os.kill(slot.pid, signal.SIGKILL)
        job = client.submit("wide", rows, chunk_rows=50)
        wait_until(lambda: first.process.poll() is not None, "the worker has ended")
        told = "weights.bin is damaged; remove that folder and start the worker again"
        assert _said(first, "model wide cannot be loaded", "its snapshot", told) >= 1

        second = system.start_ready_worker(manifest, 1)

        assert _said(second, "model wide: its snapshot", "weights.bin is damaged; it is made again") == 1
        # Tried again, another executor may have come out as the fastest.
        np.testing.assert_allclose(job.result(), expected, rtol=1e-4, atol=1e-5)


def test_no_bit_of_a_snapshot_turns_unseen(models: Path, tmp_path: Path) -> None:
    """Whichever file it is in; where no stamp tells of it, the outputs for known rows do."""
    command = [sys.executable, "-c", _FLIPS, str(models / "digits.keras"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    *seen, silent = done.stdout.splitlines()
    assert len({line.partition(" ")[0] for line in seen}) > 1, "bits of several files"
    for line in [*seen, silent]:
        name = line.partition(" ")[0]
        assert f"is not what it was when the worker started: {name} is damaged; remove that folder" in line


_FLIPS = """
import sys
from pathlib import Path
import msgspec, numpy
from tasks.models.model_version import entry_digest
from tasks.preparation.context import PreparationContext
from tasks.preparation.prepare import prepare
from tasks.snapshots.file_stamps import stamps_of
from tests.integration.test_snapshots import flip_a_bit, turn
from worker_config.errors import ModelLoadError
from worker_config.manifest import ModelEntry

entry = ModelEntry(sys.argv[1])
context = PreparationContext(Path(sys.argv[2]), 2**40, 1, 1, 0, lambda text: None)
served = prepare("digits", entry, entry_digest(entry), context)
folder = Path(served.folder)

from tasks.child.load_model import load_model

def outcome(served):
    try:
        load_model(served)
    except ModelLoadError as error:
        return str(error)
    return "loaded"

assert outcome(served) == "loaded"
for number in range(12):
    chance = numpy.random.default_rng(number)
    name = str(chance.choice(sorted(served.files)))
    place, mask = flip_a_bit(folder / name, chance)
    print(name, outcome(served))
    turn(folder / name, place, mask)
    assert outcome(served) == "loaded", "the bytes are what they were"

turn(folder / "weights.bin", 3, 0x40)  # of the first weight's exponent
own_graph = msgspec.structs.replace(served, executor="graph", stamps=stamps_of(folder, served.files))
print("weights.bin", outcome(own_graph))
"""


def flip_a_bit(path: Path, chance: np.random.Generator) -> tuple[int, int]:
    """Turn one bit of a file; return its byte, and the bit in it."""
    place, mask = int(chance.integers(path.stat().st_size)), 1 << int(chance.integers(8))
    turn(path, place, mask)
    return place, mask


def turn(path: Path, place: int, mask: int) -> None:
    """Turn the bits of a mask, in place, as others have the file mapped."""
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ mask]))


def test_without_a_cache_each_child_loads_the_model_for_itself(
    system: System, manifest: Path, rows: np.ndarray, wide: Path
) -> None:
    worker = system.start_ready_worker(manifest, 1, environ={"CELERIAC_CACHE": "/dev/null/nowhere"})

    assert _said(worker, "model wide: no snapshot", "each child loads it for itself") == 1
    (info,) = system.slots()[0].models
    assert (info.executor, info.shared_bytes) == ("plain", 0)
    with Client(system.url) as client:
        np.testing.assert_array_equal(client.predict("wide", rows), _loaded_plainly(system, wide, rows))


def _loaded_plainly(system: System, path: Path, rows: np.ndarray) -> np.ndarray:
    """By Keras alone, in batches of the same shape."""
    import keras
    import tensorflow as tf

    model = keras.models.load_model(path, compile=False)
    function = tf.function(lambda batch: model(batch, training=False), autograph=False)
    padded = np.concatenate([rows, np.repeat(rows[-1:], -len(rows) % 64, axis=0)])
    batches = [function(tf.constant(padded[start : start + 64])).numpy() for start in range(0, len(padded), 64)]
    return np.concatenate(batches)[: len(rows)]


def _check_equal(outputs: np.ndarray, expected: np.ndarray, executor: str) -> None:
    """To the bit where the model's own graph is run; a graph that is folded or compiled may round otherwise."""
    if executor == "graph":
        np.testing.assert_array_equal(outputs, expected)
    else:
        np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-5)


def _said(worker: Worker, *words: str) -> int:
    return sum(all(word in line for word in words) for line in worker.output().splitlines())


def _weights_in(slot: SlotRecord) -> int:
    """Proportional bytes of the file of weights in a child; a part of what it has in common with others."""
    maps = psutil.Process(slot.pid).memory_maps()
    return sum(one.pss + one.private_dirty for one in maps if one.path.endswith((".bin", ".packed")))
