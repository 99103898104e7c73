"""The rows of a calibration file: all of them while they are bearable, spread evenly where not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.preparation import calibration
from tasks.preparation.calibration import bearable, calibration_rows
from tasks.preparation.reference import gate_rows
from tasks.protocol.records import TensorSpec
from worker_config.errors import ConfigError
from worker_config.manifest import ModelEntry

PIXELS = [TensorSpec("pixels", "float32", (None, 4))]
PAIR = [TensorSpec("left", "float32", (None, 3)), TensorSpec("right", "int64", (None,))]


def counted(rows: int) -> np.ndarray[Any, Any]:
    return np.repeat(np.arange(float(rows))[:, None], 4, axis=1)


@pytest.mark.parametrize("name", ["rows.npy", "rows.npz"])
def test_all_rows_are_used_and_cast(tmp_path: Path, name: str) -> None:
    np.save(tmp_path / "rows.npy", counted(1000))
    np.savez(tmp_path / "rows.npz", pixels=counted(1000))
    [array], rows_in_file = calibration_rows(tmp_path / name, PIXELS)
    assert (rows_in_file, array.dtype) == (1000, np.float32)
    np.testing.assert_array_equal(array, counted(1000))


def test_of_more_than_4096_rows_so_many_are_spread_over_the_file(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", counted(10_000))
    [array], rows_in_file = calibration_rows(tmp_path / "rows.npy", PIXELS)
    assert (rows_in_file, len(array)) == (10_000, 4096)
    assert (array[0, 0], array[-1, 0], np.diff(array[:, 0]).max()) == (0, 9999, 3)


@pytest.mark.parametrize("name", ["rows.npy", "rows.npz"])
def test_large_rows_are_bounded_by_their_bytes_as_the_model_takes_them(tmp_path: Path, name: str) -> None:
    rows = np.zeros((300, 2**9, 2**9), np.uint8)  # of four times as many bytes for the model
    np.save(tmp_path / "rows.npy", rows)
    np.savez_compressed(tmp_path / "rows.npz", image=rows)
    inputs = [TensorSpec("image", "float32", (None, 2**9, 2**9))]
    [array], rows_in_file = calibration_rows(tmp_path / name, inputs)
    assert (rows_in_file, len(array)) == (300, 128)


def test_rows_of_several_arrays_stay_together(tmp_path: Path) -> None:
    numbers = np.arange(9_000)
    np.savez(tmp_path / "rows.npz", right=numbers, left=np.repeat(numbers[:, None], 3, axis=1).astype(np.float32))
    (left, right), _ = calibration_rows(tmp_path / "rows.npz", PAIR)
    np.testing.assert_array_equal(left[:, 0], right)
    np.savez(tmp_path / "uneven.npz", right=numbers, left=np.zeros((8_000, 3)))
    with pytest.raises(ConfigError, match="its arrays have 8000 and 9000 rows"):
        calibration_rows(tmp_path / "uneven.npz", PAIR)


def test_a_file_that_does_not_fit_says_what_it_should_hold(tmp_path: Path) -> None:
    np.save(tmp_path / "narrow.npy", np.zeros((9, 3)))
    np.save(tmp_path / "objects.npy", np.array([{}], object))
    np.save(tmp_path / "one.npy", np.zeros((1, 4)))
    np.save(tmp_path / "none.npy", np.zeros((0, 4)))
    np.save(tmp_path / "value.npy", np.float32(3))
    np.savez(tmp_path / "names.npz", left=np.zeros((9, 4)), right=np.zeros((9, 4)))
    np.savez(tmp_path / "empty.npz")
    (tmp_path / "text.npy").write_text("1,2,3")
    (tmp_path / "text.npz").write_text("1,2,3")
    for path in [*tmp_path.iterdir(), tmp_path / "missing.npy"]:
        with pytest.raises(ConfigError, match=rf"{path.name}.*should hold rows of pixels \(\?, 4\) float32"):
            calibration_rows(path, PIXELS)


def test_large_outputs_and_slow_models_take_fewer_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [np.arange(64.0)]

    def wide(arrays: Any) -> Any:
        return [np.zeros((len(arrays[0]), 2**20), np.float32)]

    assert len(bearable(wide, rows, 4)[0]) == 32
    assert bearable(lambda arrays: list(arrays), rows, 4)[0] is rows[0]
    monkeypatch.setattr(calibration, "MOST_SECONDS", 0.0)
    [few] = bearable(lambda arrays: list(arrays), rows, 4)
    assert (len(few), few[0], few[-1]) == (calibration.LEAST_ROWS, 0, 63)


def test_the_gate_tells_how_many_rows_the_file_has(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", counted(5_000))
    entry = ModelEntry(path="m", calibration=str(tmp_path / "rows.npy"))
    found = gate_rows(lambda arrays: [arrays[0] * 2], PIXELS, entry, 64)
    assert (found.label, found.of, len(found.rows[0]), len(found.reference[0])) == ("rows.npy", 5_000, 4096, 4096)
    assert gate_rows(lambda arrays: [arrays[0] * 2], PIXELS, ModelEntry(path="m"), 64).of == 0


def test_rows_too_large_to_try_executors_on_are_not_made() -> None:
    specs = [TensorSpec("x", "float32", (None, 2**22 + 1))]
    found = gate_rows(lambda arrays: pytest.fail("it is run"), specs, ModelEntry("m"), 4)
    assert (found.rows, found.why) == ([], "its rows have 16 MiB each, too many to try executors on")
