"""Rows out of the ordinary get what the model itself gives, by whichever executor a worker has chosen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from producer import Client
from tests.edge_models import functions, ordinary, write_edge_model
from tests.forms import LONG
from tests.manifests import write_manifest
from tests.systems import System, serving

BATCH = 16
SHORT = ["softplus", "waves", "unit", "masked_softmax", "argmax", "max_pool", "assert_less", "embedding"]
NAMES = list(functions()) if LONG else SHORT

Cases = dict[str, tuple[np.ndarray, Any]]


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Cases]:
    folder = tmp_path_factory.mktemp("models")
    cases = {name: write_edge_model(folder, name) for name in NAMES}
    models = {name: {"path": name, "batch_rows": BATCH} for name in cases}
    return write_manifest(folder, models), cases


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, cases: tuple[Path, Cases]) -> Iterator[System]:
    with serving(tmp_path_factory.mktemp("s"), cases[0], children=1, start_seconds=60 * len(NAMES)) as system:
        yield system


@pytest.mark.parametrize("name", NAMES)
def test_every_row_is_the_models_own(system: System, cases: tuple[Path, Cases], name: str) -> None:
    rows, model = cases[1][name]
    expected, refused = _by_row(model, rows)
    with Client(system.url) as client:
        job = client.submit(name, rows, on_error="fill")
        outputs = job.result()
    assert isinstance(outputs, np.ndarray)
    assert [record.start for record in job.failures()] == refused
    kept = np.setdiff1d(np.arange(len(rows)), refused)
    _equal(outputs[kept], expected)


def test_ordinary_rows_beside_them_keep_their_executor(system: System) -> None:
    with Client(system.url) as client:
        executors = {name: client.describe(name)[0].executor for name in NAMES}
        assert executors["assert_less"] in ("graph", "frozen")
        assert executors["embedding"] in ("graph", "frozen", "tflite")
        plain = client.predict("softplus", ordinary())
    assert np.isfinite(np.asarray(plain)).all()


def _by_row(model: Any, rows: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """What the model gives for the rows that it takes, in batches as ours; and the rows that it refuses."""
    import tensorflow as tf

    refused = []
    for number in range(len(rows)):
        try:
            model(tf.constant(np.repeat(rows[number : number + 1], BATCH, axis=0)))
        except tf.errors.InvalidArgumentError:
            refused.append(number)
    kept = np.delete(rows, refused, axis=0)
    padded = np.concatenate([kept, np.repeat(kept[-1:], -len(kept) % BATCH, axis=0)])
    batches = [model(tf.constant(batch))["y"].numpy() for batch in np.split(padded, len(padded) // BATCH)]
    return np.concatenate(batches)[: len(kept)], refused


def _equal(outputs: np.ndarray, expected: np.ndarray) -> None:
    assert outputs.dtype == expected.dtype
    if expected.dtype.kind != "f":
        np.testing.assert_array_equal(outputs, expected)
        return
    assert (np.isnan(outputs) == np.isnan(expected)).all()
    size = np.abs(expected[np.isfinite(expected)]).max(initial=1.0)
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-5 * size)
