"""`local()` with models in memory, from the call to predictions: nothing that happens to them later counts."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from producer import Client, local
from tests.at_hand import ROWS, Module, Own, plain, predicted, two_inputs
from tests.models import keras_may_warn

MEAN = ROWS.mean(axis=0)


@pytest.fixture(scope="module")
def at_hand() -> dict[str, Any]:
    with keras_may_warn():
        own = Own()
        own(ROWS[:1])
        return {"plain": plain(), "own": own, "two": two_inputs(), "module": Module()}


@pytest.fixture(scope="module")
def client(at_hand: dict[str, Any]) -> Iterator[Client]:
    scale = [3]

    def clean(rows: Any) -> Any:
        return (rows - MEAN) * scale[0]

    def label(scores: Any) -> Any:
        return {"label": scores.argmax(axis=1), "score": scores.max(axis=1)}

    around = {"model": at_hand["plain"], "preprocess": clean, "postprocess": label, "batch_rows": 32}
    with keras_may_warn(), local({**at_hand, "around": around, "clean": clean}, workers=1) as client:
        at_hand["plain"].set_weights([one * 2 for one in at_hand["plain"].get_weights()])  # too late
        scale[0] = 4
        yield client
        folder = Path(client.broker_url.removeprefix("unix://")).parent
        assert any((folder / "models").iterdir())
    assert not folder.exists()


def test_a_model_that_is_code_goes_along(client: Client, at_hand: dict[str, Any]) -> None:
    np.testing.assert_allclose(client.predict("own", ROWS), predicted(at_hand["own"], ROWS), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(client.predict("module", ROWS), ROWS * 3)


def test_weights_are_those_of_the_call_whatever_becomes_of_them(client: Client, at_hand: dict[str, Any]) -> None:
    expected = predicted(plain(), ROWS)
    assert not np.allclose(predicted(at_hand["plain"], ROWS), expected)
    np.testing.assert_allclose(client.predict("plain", ROWS), expected, rtol=1e-5, atol=1e-6)


def test_a_list_of_inputs_keeps_its_order(client: Client) -> None:
    np.testing.assert_allclose(client.predict("two", (ROWS, ROWS * 3)), -ROWS, rtol=1e-6)
    np.testing.assert_allclose(client.predict("two", {"left": ROWS, "right": ROWS * 3}), ROWS * 5, rtol=1e-6)


def test_functions_around_a_model_and_keys_of_the_manifest(client: Client) -> None:
    cleaned = (ROWS - MEAN) * 3
    np.testing.assert_array_equal(client.predict("clean", ROWS), cleaned)
    scores, outputs = predicted(plain(), cleaned), client.predict("around", ROWS)
    np.testing.assert_array_equal(outputs["label"], scores.argmax(axis=1))
    np.testing.assert_allclose(outputs["score"], scores.max(axis=1), rtol=1e-5)
    assert client.describe("around")[0].batch_rows == 32


def test_a_program_that_was_started_from_elsewhere_brings_the_modules_beside_it(tmp_path: Path) -> None:
    folder = tmp_path / "program"
    folder.mkdir()
    (folder / "own_values.py").write_text("by = 3\n")
    (folder / "own_steps.py").write_text("import own_values\ndef by(rows): return rows * own_values.by\n")
    (folder / "program.py").write_text(PROGRAM)
    run = [sys.executable, str(folder / "program.py")]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("[3.0, 6.0] [4.0, 5.0]\n", 0), done.stderr
    (folder / "tasks.py").touch()
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "tasks.py hides Celeriac's package `tasks`" in done.stderr


PROGRAM = """
import numpy as np
import own_steps
from celeriac import local

def more(rows):
    from own_values import by
    return rows + by

if __name__ == "__main__":
    with local({"by": own_steps.by, "more": more}, workers=1) as client:
        rows = np.float32([1, 2])
        print(client.predict("by", rows).tolist(), client.predict("more", rows).tolist())
"""
