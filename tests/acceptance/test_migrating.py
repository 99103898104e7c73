"""The programs of docs/migrating.md run as printed; where both of a pair can run here, they give the same."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.models import in_one_process, keras_may_warn
from tests.systems import REPOSITORY, serving

PAGE = (REPOSITORY / "docs" / "migrating.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^```(?:python|toml)\n# (\S+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
# They need a broker and a worker of their own, or a library that is not installed here.
UNTRIED = {"before_celery.py", "before_ray.py"}
RANDOM = np.random.default_rng(3)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the page's programs find each other."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def run(folder: Path, name: str, **environ: str) -> str:
    told = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environ}
    command = [sys.executable, name]
    done = subprocess.run(command, cwd=folder, env=told, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def scores_of(folder: Path, name: str, **environ: str) -> np.ndarray[Any, Any]:
    run(folder, name, **environ)
    scores = np.load(folder / "scores.npy")
    (folder / "scores.npy").unlink()
    return scores


def test_every_block_is_a_file_that_is_tried() -> None:
    assert len(FILES) == len(re.findall(r"^```(?:python|toml)$", PAGE, re.MULTILINE))
    pairs = {f"{before}{name}.py" for name in ("map", "unordered") for before in ("", "before_")}
    rest = {"work.py", "models.toml", "submit.py", "before_tf_data.py", "feed.py", "batches.py"}
    assert FILES.keys() == pairs | rest | UNTRIED
    for name in UNTRIED:
        compile(FILES[name], name, "exec")


def test_map_with_an_initializer(folder: Path) -> None:
    np.save(folder / "table.npy", RANDOM.random((100, 8)))
    np.save(folder / "items.npy", RANDOM.integers(100, size=1000))
    before, after = scores_of(folder, "before_map.py"), scores_of(folder, "map.py")
    assert before.shape == (1000,)
    np.testing.assert_allclose(after, before, rtol=1e-6)


def test_results_as_they_come_and_exceptions(folder: Path) -> None:
    np.save(folder / "numbers.npy", np.where(np.arange(500) % 100 == 42, -1.0, np.arange(500)))
    before, after = (
        dict(line.split(maxsplit=1) for line in run(folder, name).splitlines())
        for name in ("before_unordered.py", "unordered.py")
    )
    assert len(before) == 500
    assert before.keys() == after.keys()
    for number, told in before.items():
        assert after[number].startswith("failed:") == told.startswith("failed:")
        assert after[number].endswith(told.removeprefix("failed: "))


def test_celery_tasks(folder: Path, models: Path) -> None:
    rows = RANDOM.random((300, 64), np.float32)
    np.save(folder / "rows.npy", rows)
    (folder / "digits.keras").write_bytes((models / "digits.keras").read_bytes())
    with serving(folder, folder / "models.toml") as system:
        scores = scores_of(folder, "submit.py", CELERIAC_BROKER_URL=system.url)
    np.testing.assert_allclose(scores, in_one_process(folder / "digits.keras", rows), rtol=1e-5, atol=1e-6)


def test_tf_data(folder: Path) -> None:
    import keras

    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(10, "softmax")])
    model.compile("adam", "sparse_categorical_crossentropy")
    with keras_may_warn():
        model.save(folder / "digits.keras")
    np.save(folder / "images.npy", RANDOM.random((640, 64), np.float32))
    np.save(folder / "labels.npy", RANDOM.integers(10, size=640))
    for name in ("before_tf_data.py", "feed.py"):
        told = run(folder, name)
        assert "Epoch 2/2" in told
        assert "10/10" in told


def test_map_batches(folder: Path, models: Path) -> None:
    rows = RANDOM.random((300, 64), np.float32)
    pixels = pa.FixedSizeListArray.from_arrays(rows.ravel(), 64)
    pq.write_table(pa.table({"id": np.arange(300) * 2, "pixels": pixels}), folder / "rows.parquet")
    (folder / "digits.keras").write_bytes((models / "digits.keras").read_bytes())
    run(folder, "batches.py")
    written = pq.read_table(folder / "scores.parquet")
    assert written["id"].to_pylist() == list(range(0, 600, 2))
    [scores] = [written[name] for name in written.column_names if name not in ("id", "row")]
    expected = in_one_process(folder / "digits.keras", rows)
    np.testing.assert_allclose(np.stack(scores.to_numpy()), expected, rtol=1e-5, atol=1e-6)
