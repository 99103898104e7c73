"""`celeriac init`: what it finds, what it writes, and what it leaves alone; `celeriac completion` beside it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from producer.cli.commands import COMMANDS, cli
from producer.cli.init import found_models, manifest_text
from worker_config.errors import InputError, OutputError
from worker_config.manifest import read_manifest


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_models_of_a_folder_and_its_folders_are_found_by_names_that_differ(tmp_path: Path) -> None:
    touch(tmp_path, "b.keras", "notes.txt", ".hidden.keras", "old/b.keras", "old/v1.2 final.h5", "old/deep/no.keras")
    touch(tmp_path, "saved/saved_model.pb", "saved/variables/variables.index", "tree/1/saved_model.pb")
    found = found_models(tmp_path)
    assert {name: str(path.relative_to(tmp_path)) for name, path in found.items()} == {
        "b": "b.keras",
        "saved": "saved",
        "tree": "tree",
        "b-2": "old/b.keras",
        "v1.2_final": "old/v1.2 final.h5",
    }
    manifest = tmp_path / "models.toml"
    manifest.write_text(manifest_text(found, tmp_path, {}))
    assert {name: Path(entry.path) for name, entry in read_manifest(manifest).items()} == found


def test_models_are_told_with_what_they_take_and_give_and_nothing_is_overwritten(tmp_path: Path, models: Path) -> None:
    for name in ("digits.keras", "pair.keras"):
        shutil.copy(models / name, tmp_path)
    touch(tmp_path, "broken.keras")
    done = CliRunner().invoke(cli, ["init", str(tmp_path)])
    assert done.exit_code == 0, done.exception
    manifest = tmp_path / "models.toml"
    assert done.stdout == f"3 models in {manifest}: broken, digits, pair\n"
    text = manifest.read_text()
    assert "[models.digits]\n# inputs: pixels (?, 64) float32\n# outputs: " in text
    assert "[models.broken]\n# cannot be loaded as it is: " in text
    assert set(read_manifest(manifest)) == {"broken", "digits", "pair"}

    refused = CliRunner().invoke(cli, ["init", str(tmp_path)])
    assert isinstance(refused.exception, OutputError)
    assert "is there already" in str(refused.exception)
    assert manifest.read_text() == text


def test_a_folder_without_models_is_told(tmp_path: Path) -> None:
    refused = CliRunner().invoke(cli, ["init", str(tmp_path)])
    assert isinstance(refused.exception, InputError)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_gets_a_script(shell: str) -> None:
    done = CliRunner().invoke(cli, ["completion", shell])
    assert done.exit_code == 0
    assert f"_CELERIAC_COMPLETE={shell}_complete" in done.stdout


@pytest.mark.parametrize(
    ("words", "expected"),
    [("celeriac pr", ["predict", "priority"]), ("celeriac predict --on-", ["--on-error", "--on-nonfinite"])],
)
def test_what_the_script_asks_for_is_completed(words: str, expected: list[str]) -> None:
    asked = {"_CELERIAC_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    done = subprocess.run(
        [str(Path(sys.executable).with_name("celeriac"))],
        env={**os.environ, **asked},
        capture_output=True,
        text=True,
        check=True,
    )
    assert [line.partition(",")[2] for line in done.stdout.splitlines()] == expected


def test_each_command_is_completed(monkeypatch: pytest.MonkeyPatch) -> None:
    context = cli.make_context("celeriac", ["jobs"], resilient_parsing=True)
    assert [one.value for one in cli.shell_complete(context, "")] == sorted(COMMANDS)
