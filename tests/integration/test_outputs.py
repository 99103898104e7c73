"""Outputs that are chosen, and those that are no row's, through a real worker and in what `celeriac models` says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from producer import Client
from tests.manifests import write_manifest
from tests.models import in_one_process
from tests.systems import System, serving

ROWS = np.random.default_rng(5).random((70, 4), np.float32)
PAIRS = {"left": ROWS, "right": np.random.default_rng(6).integers(0, 10, (70, 3)).astype(np.int32)}
TOLD = "no row for each of the inputs: class_names (3) string"


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[System]:
    import tensorflow as tf

    class Module(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            self.weights = tf.Variable(np.eye(4, 3, dtype=np.float32) * 2)

        @tf.function(input_signature=[tf.TensorSpec([None, 4], name="x")])  # type: ignore[untyped-decorator]
        def serve(self, x: Any) -> Any:
            return {"scores": x @ self.weights, "class_names": tf.constant(["a", "b", "c"])}

    folder = tmp_path_factory.mktemp("s")
    module = Module()
    tf.saved_model.save(module, folder / "named", signatures=module.serve)
    keys = {
        "named": "named",
        "wide": {"path": models / "pair.keras", "outputs": ["wide"]},
        "turned": {"path": models / "pair_saved", "outputs": ["wide", "narrow"]},
    }
    with serving(folder, write_manifest(folder, keys)) as system:
        yield system


def test_the_names_of_classes_are_left_out(client: Client) -> None:
    np.testing.assert_allclose(client.predict("named", ROWS, chunk_rows=9), ROWS[:, :3] * 2, rtol=1e-5)


def test_outputs_are_chosen(client: Client, models: Path) -> None:
    expected = in_one_process(models / "pair.keras", PAIRS)
    np.testing.assert_allclose(client.predict("wide", PAIRS), expected["wide"], rtol=1e-4, atol=1e-5)
    turned = client.predict("turned", PAIRS)
    assert isinstance(turned, dict)
    assert list(turned) == ["wide", "narrow"]
    np.testing.assert_allclose(turned["narrow"], expected["narrow"], rtol=1e-4, atol=1e-5)


def test_what_is_left_out_is_told(system: System, client: Client) -> None:
    assert TOLD in system.workers[0].output()
    assert TOLD in client.describe("named")[0].note
    shown = system.celeriac("models", "--models", system.folder / "models.toml", CELERIAC_BROKER_URL="")
    assert TOLD in shown.stdout
