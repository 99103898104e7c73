"""What the command's options mean before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from producer.cli.options import model_set_environ


@pytest.mark.parametrize(
    ("told", "variable"),
    [
        ("digits", "CELERIAC_MODEL_SET"),
        ("digits,letters-2,a.b", "CELERIAC_MODEL_SET"),
        ("folder", "CELERIAC_MODEL_SET"),
        ("models.toml", "CELERIAC_MODELS"),
        ("none.toml", "CELERIAC_MODELS"),
        ("./digits", "CELERIAC_MODELS"),
        ("/srv/models", "CELERIAC_MODELS"),
        ("a,,b", "CELERIAC_MODELS"),
        ("manifest", "CELERIAC_MODELS"),
    ],
)
def test_models_of_a_worker_are_names_or_the_path_of_a_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: str, variable: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "manifest").touch()
    monkeypatch.chdir(tmp_path)
    assert model_set_environ(told) == {variable: told}


def test_models_that_are_left_out_change_nothing() -> None:
    assert model_set_environ(None) == {}
