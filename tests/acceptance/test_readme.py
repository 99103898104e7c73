"""README and docs are true: the demo does what the first screen shows, the session runs, the tables are complete."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from tests.acceptance.commands import Celeriac
from worker_config import manifest
from worker_config.errors import ExitCode
from worker_config.settings import Settings, variable_of

CHECKOUT = Path(__file__).parents[2]
README = (CHECKOUT / "README.md").read_text()
SETTINGS = (CHECKOUT / "docs" / "settings.md").read_text()
COMMAND_LINE = (CHECKOUT / "docs" / "command-line.md").read_text()


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder in which `celeriac demo` ran, and what it printed."""
    celeriac = Celeriac(tmp_path_factory.mktemp("d"))
    return celeriac.folder, celeriac.succeeds("demo").stdout


def test_the_demo_predicts_all_rows_and_most_of_them_right(demo: tuple[Path, str]) -> None:
    folder, shown = demo
    accuracy = re.search(r"^accuracy +([0-9.]+) on the 898 rows", shown, re.MULTILINE)
    assert accuracy is not None
    assert float(accuracy[1]) >= 0.95
    assert np.load(folder / "celeriac-demo" / "predictions.npy").shape == (1797, 10)


def test_the_demo_fits_on_one_screen_and_says_what_the_readme_shows(demo: tuple[Path, str]) -> None:
    _, shown = demo
    assert len(shown.splitlines()) < 24
    first_words = re.findall(r"^(\w+) {2,}", README.split("$ make test")[0].split("$ make demo")[1], re.MULTILINE)
    assert first_words == [line.split()[0] for line in shown.splitlines()][: len(first_words)]


def test_the_python_session_runs_as_it_stands(demo: tuple[Path, str]) -> None:
    folder, _ = demo
    session = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert session is not None
    check = "\nassert scores.shape == (1797, 10) and job.ledger.written == 1797\n"
    code = "\n".join([session[1], "assert 'tensorflow' not in __import__('sys').modules", check])
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_setting_is_documented_and_nothing_else() -> None:
    in_code = {variable_of(field.name) for field in fields(Settings)}
    assert set(re.findall(r"^\| `(CELERIAC_\w+|OTEL_TRACES_EXPORTER)`", SETTINGS, re.MULTILINE)) == in_code


def test_every_exit_code_is_documented() -> None:
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", COMMAND_LINE, re.MULTILINE)}
    assert documented == {int(code) for code in ExitCode}


def test_every_key_of_the_manifest_is_documented() -> None:
    documented = set(re.findall(r"^\| `([a-z_]+)` \|", SETTINGS, re.MULTILINE))
    before_the_tables = set(manifest._Manifest.__struct_fields__) - {"models"}
    keys = set(manifest.ModelEntry.__struct_fields__) - {*manifest._FILLED_IN}
    assert documented == keys | before_the_tables


def test_the_make_targets_of_the_documentation_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (CHECKOUT / "Makefile").read_text(), re.MULTILINE))
    pages = [README, (CHECKOUT / "CONTRIBUTING.md").read_text()]
    pages += [page.read_text() for page in (CHECKOUT / "docs").rglob("*.md")]
    named = {name for page in pages for name in re.findall(r"(?:`|^\$ )make ([a-z]+)", page, re.MULTILINE)}
    assert {"demo", "test", "docs", "check"} <= named <= targets
