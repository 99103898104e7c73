"""Names that are written wrongly: which one was meant, where one is like it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from producer.cli.commands import cli
from producer.cli.manifest import check_names
from producer.doctor import machine
from producer.doctor.findings import Level
from producer.scheduling.model_pinning import pin
from tests.unit.test_scheduling import slot
from worker_config.errors import ConfigError, UnknownModelError
from worker_config.manifest import read_manifest
from worker_config.settings import Settings, misspelt


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "models.toml"
    path.write_text('[models.digits]\npath = "digits.keras"\n[models.words]\npath = "words.keras"\n')
    return path


def test_a_model(manifest: Path) -> None:
    with pytest.raises(UnknownModelError, match=r"no model 'digit' in .* \(did you mean 'digits'\?\); there are: dig"):
        check_names(["digit"], manifest)
    with pytest.raises(UnknownModelError, match=r"to hold \(did you mean 'words'\?\); there are"):
        read_manifest(manifest, ["wrods"])
    with pytest.raises(UnknownModelError, match=r"no model 'faces' in .*models.toml; there are"):
        check_names(["faces"], manifest)


def test_a_model_of_workers() -> None:
    with pytest.raises(
        UnknownModelError, match=r"no worker holds model 'digit' \(did you mean 'digits'\?\); there are"
    ):
        pin(["digit"], [slot("w1@h", digits="aa", words="bb")])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[models.a]\npath = "a.keras"\nbatchrows = 3', r"unknown field `batchrows` \(did you mean 'batch_rows'\?\)"),
        ('[models.a]\npath = "a.keras"\ncolour = 3', r"unknown field `colour`( - at `.*`)?$"),
        ('[model.a]\npath = "a.keras"', r"unknown field `model` \(did you mean 'models'\?\)|missing"),
        ('[models.a]\npath = "a.keras"\nmembres = 3', r"unknown field `membres`( - at `.*`)?$"),
        (
            '[models.ab]\npath = "a.keras"\n[models.all]\nchain = ["abs"]',
            r"names 'abs', which is no entry \(did you mean 'ab'\?\)",
        ),
    ],
)
def test_a_key_of_the_manifest(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "models.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=told):
        read_manifest(path)


def test_a_command_and_an_option() -> None:
    for words, meant in ((["predct"], "'predict'"), (["predict", "m", "rows", "--chunk-row", "3"], "'--chunk-rows'")):
        assert f"Did you mean {meant}?" in CliRunner().invoke(cli, words).output


def test_a_variable_is_told_once_and_others_of_the_user_s_are_left_alone() -> None:
    environ = {"CELERIAC_SPOL": "/x", "CELERIAC_MODEL": "m.toml", "CELERIAC_SPOOL": "/x", "CELERIAC_STAGE": "test"}
    assert misspelt(environ) == [
        "CELERIAC_MODEL is no setting (did you mean 'CELERIAC_MODELS'?)",
        "CELERIAC_SPOL is no setting (did you mean 'CELERIAC_SPOOL'?)",
    ]
    assert Settings.from_env({"CELERIAC_SPOL": "/x"}) == Settings()
    code = "from worker_config.settings import Settings; Settings.from_env(); Settings.from_env()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "CELERIAC_SPOL": "/x"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == "CELERIAC_SPOL is no setting (did you mean 'CELERIAC_SPOOL'?)\n"
    (finding,) = machine.check_settings([], misspelt({"CELERIAC_SPOL": "/x"}))
    assert finding.level is Level.WARNING
