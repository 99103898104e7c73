"""One broken entry of a manifest stops no other; and a model's own file needs no manifest."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.acceptance.commands import Celeriac
from tests.manifests import write_manifest
from tests.models import in_one_process
from worker_config.errors import ExitCode

ROWS = np.random.default_rng(5).random((90, 64), np.float32)
BROKEN = {
    "gone": ({"path": "gone.keras"}, "no such file or folder; mend the path in models.toml"),
    "misspelt": ({"path": "digits.keras", "batchrows": 3}, "unknown field `batchrows`"),
    "garbage": ({"path": "garbage.keras"}, "not a .keras file: it is no zip archive"),
}


@pytest.fixture
def celeriac(celeriac: Celeriac, models: Path) -> Celeriac:
    np.save(celeriac.folder / "rows.npy", ROWS)
    for name in ("digits.keras", "digits_saved"):
        copy = shutil.copytree if (models / name).is_dir() else shutil.copyfile
        copy(models / name, celeriac.folder / name)
    return celeriac


@pytest.fixture
def manifest(celeriac: Celeriac) -> Path:
    (celeriac.folder / "garbage.keras").write_bytes(b"this is no model")
    entries = {name: keys for name, (keys, _) in BROKEN.items()}
    return write_manifest(celeriac.folder, {**entries, "digits": "digits.keras", "both": {"chain": ["digits"]}})


def check_scores(celeriac: Celeriac, models: Path, output: str = "out.npy") -> None:
    expected = in_one_process(models / "digits.keras", ROWS)
    np.testing.assert_allclose(np.load(celeriac.folder / output), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["digits", "both"])
def test_a_model_is_predicted_whatever_is_wrong_with_others(
    celeriac: Celeriac, manifest: Path, models: Path, name: str
) -> None:
    celeriac.succeeds("predict", name, "rows.npy", "-o", "out.npy", "--workers", 1)
    check_scores(celeriac, models)


@pytest.mark.parametrize("name", ["gone", "misspelt"])
def test_a_broken_model_is_told_by_its_own_line(celeriac: Celeriac, manifest: Path, name: str) -> None:
    code = ExitCode.USAGE if name == "misspelt" else ExitCode.MODEL
    assert BROKEN[name][1] in celeriac.refuses(code, "predict", name, "rows.npy", "-o", "out.npy")


def test_models_marks_the_broken_ones_and_shows_the_rest(celeriac: Celeriac, manifest: Path) -> None:
    shown = celeriac.run("models")
    assert (shown.code, shown.lines) == (ExitCode.MODEL, [])
    lines = {line.split()[0]: line for line in shown.stdout.splitlines()}
    assert "pixels (?, 64) float32" in lines["digits"]
    for name, (_, words) in BROKEN.items():
        assert lines[name].startswith(f"{name}  broken: "), shown.stdout
        assert words in lines[name], shown.stdout

    values = celeriac.run("models", "--json").json
    assert [model["name"] for model in values["models"]] == ["digits", "both"]
    assert list(values["broken"]) == list(BROKEN)

    inspected = celeriac.run("models", "--inspect")
    assert inspected.code == ExitCode.OK
    assert "digits: touches neither files, nor the network, nor Python" in inspected.stdout
    assert "garbage is not loaded: " in inspected.stdout


def test_the_doctor_tells_of_every_broken_entry(celeriac: Celeriac, manifest: Path) -> None:
    said = celeriac.run("doctor").stdout
    for name in ("gone", "misspelt"):
        assert BROKEN[name][1] in said


@pytest.mark.parametrize("model", ["digits.keras", "digits_saved", "./digits.keras"])
def test_a_model_s_own_file_or_folder_needs_no_manifest(celeriac: Celeriac, models: Path, model: str) -> None:
    celeriac.succeeds("predict", model, "rows.npy", "-o", "out.npy", "--workers", 1)
    check_scores(celeriac, models)
    assert "rows predicted" not in celeriac.refuses(ExitCode.USAGE, "predict", model, "rows.npy", "-o", "out.npy")


def test_a_model_s_own_file_is_a_manifest_of_it(celeriac: Celeriac) -> None:
    shown = celeriac.succeeds("models", "--models", "digits.keras")
    assert shown.stdout.splitlines()[1].startswith("digits ")


def test_a_file_that_is_not_there_is_told_as_a_model(celeriac: Celeriac) -> None:
    line = celeriac.refuses(ExitCode.MODEL, "predict", "none.keras", "rows.npy", "-o", "out.npy")
    path = celeriac.folder / "none.keras"
    assert line == f"celeriac: model none cannot be loaded from {path}: no such file or folder"


def test_a_name_of_the_manifest_goes_before_a_file(celeriac: Celeriac, models: Path) -> None:
    (celeriac.folder / "other.keras").write_bytes(b"this is no model")
    write_manifest(celeriac.folder, {'"other.keras"': "digits.keras"})
    celeriac.succeeds("predict", "other.keras", "rows.npy", "-o", "out.npy", "--workers", 1)
    check_scores(celeriac, models)
