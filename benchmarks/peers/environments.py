"""Environments of their own for systems whose packages ours could not hold beside each other.

NAME.txt, pinned --venv, pip--> .venv/peers/NAME --> its Python; without a NAME.txt, ours
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import venv
from functools import cache
from pathlib import Path

_CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"


class NotInstalledError(Exception):
    """A system's packages could not be installed; the text is pip's last line."""


@cache
def python_of(pins: Path) -> Path:
    """The Python of the environment that a file of pins asks for, which is made where it is not there.

    Raises:
        NotInstalledError: pip could not.
    """
    if not pins.exists():
        return Path(sys.executable)
    folder = Path(sys.prefix) / "peers" / pins.stem
    python, stamp = folder / "bin" / "python", folder / "installed"
    wanted = hashlib.sha256(pins.read_bytes() + _CONSTRAINTS.read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"installing {pins.stem} into {folder}", flush=True)
        venv.create(folder, clear=True, with_pip=True)
        words = ["install", "--quiet", "--disable-pip-version-check", "-r", str(pins)]
        done = subprocess.run([str(python), "-m", "pip", *words], capture_output=True, text=True, check=False)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip failed"]
            raise NotInstalledError(f"not installed: {lines[-1]}")
        stamp.write_text(wanted)
    return python
