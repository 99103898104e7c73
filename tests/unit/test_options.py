"""What the command's options mean before anything runs."""

from __future__ import annotations

import math
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from producer.cli.options import max_failed_option, model_set_environ
from producer.outputs.predict_to_sink import most_failed


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


@pytest.mark.parametrize(
    ("text", "value", "of_1999"),
    [("0", 0, 0), ("17", 17, 17), ("5%", "5%", 99), ("0%", "0%", 0), ("0.05%", "0.05%", 0), ("100%", "100%", 1999)],
)
def test_an_error_budget_is_a_number_or_a_share(text: str, value: int | str, of_1999: int) -> None:
    assert max_failed(text) == (0, f"{value!r}\n")
    assert most_failed(value, 1999) == of_1999
    assert most_failed(None, 1999) == math.inf


@pytest.mark.parametrize("text", ["-1", "5 %", "101%", "-5%", "many", "%", "", "1e3", "0.5"])
def test_an_error_budget_that_is_none_is_told(text: str) -> None:
    code, output = max_failed(text)
    assert code == 2
    assert f"{text!r} is neither a number of rows nor a share of them, such as 5%" in output


def max_failed(text: str) -> tuple[int, str]:
    @click.command()
    @max_failed_option
    def command(max_failed: int | str | None) -> None:
        click.echo(repr(max_failed))

    result = CliRunner().invoke(command, ["--max-failed", text])
    return result.exit_code, result.output
