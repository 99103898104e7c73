"""From a wheel to a file with predictions, by the commands that docs/deploying.md shows, in a fresh environment.

The short form shares what is installed here. LONG=1 has pip install everything, from where it is configured to.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.acceptance.commands import MARK, Celeriac
from tests.environments import CHECKOUT, SITE_PACKAGES, build_wheel
from tests.systems import BIN

LONG = bool(os.environ.get("LONG"))
MOST_COMMANDS = 6
PAGE = (CHECKOUT / "docs" / "deploying.md").read_text()


def commands() -> list[str]:
    """Those below the heading, without what they are for."""
    block = re.search(r"^## One machine\n.*?```console\n(.*?)```", PAGE, re.MULTILINE | re.DOTALL)
    assert block
    return [line.removeprefix("$ ").split("  #")[0].strip() for line in block[1].splitlines()]


@pytest.fixture
def folder(celeriac: Celeriac) -> Iterator[Path]:
    yield celeriac.folder
    shutil.rmtree(celeriac.folder / "celeriac-env", ignore_errors=True)  # in which packages have hidden files
    celeriac.check_nothing_is_left()


def test_a_new_user_comes_to_predictions_with_the_commands_that_are_shown(
    celeriac: Celeriac, folder: Path, tmp_path: Path
) -> None:
    wheel = build_wheel(tmp_path)
    lines = commands()
    assert len(lines) <= MOST_COMMANDS
    (install,) = [number for number, line in enumerate(lines) if line == "pip install 'celeriac[demo]'"]
    lines[install] = f"pip install --quiet -c '{CHECKOUT / 'constraints.txt'}' '{wheel}[demo]'"
    if not LONG:
        lines[install] += " --no-index --no-deps"
        shared = "import sysconfig; print(sysconfig.get_path('purelib'))"
        lines.insert(install + 1, f'echo {SITE_PACKAGES} > "$(python -c "{shared}")/packages.pth"')
    hidden = ("PYTHON", "CELERIAC_", "VIRTUAL_ENV")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    ended = subprocess.run(
        ["/bin/sh", "-e", "-c", "\n".join(lines)],
        cwd=folder,
        env={**clean, "PATH": f"{BIN}:{os.environ['PATH']}", "TMPDIR": str(celeriac.temporary), MARK: celeriac.mark},
        capture_output=True,
        text=True,
        timeout=3_600 if LONG else 600,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert (folder / "celeriac-env" / "bin" / "celeriac").exists()
    assert re.search(r"^1,797 rows predicted in .*, written to .*scores\.npy$", ended.stdout, re.MULTILINE)
    scores, shown = np.load(folder / "scores.npy"), np.load(folder / "celeriac-demo" / "predictions.npy")
    np.testing.assert_allclose(scores, shown, rtol=1e-5, atol=1e-6)
    assert "Traceback" not in ended.stderr
