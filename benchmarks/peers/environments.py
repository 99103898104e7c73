"""Environments of their own for systems whose packages ours could not hold beside each other.

NAME.txt, pinned --venv, pip--> .venv/peers/NAME --> its Python, its packages; without a NAME.txt, ours
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import venv
from functools import cache
from importlib.metadata import distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

_CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"


class NotInstalledError(Exception):
    """A system's packages could not be installed; the text is pip's last line."""


def python_of(pins: Path) -> Path:
    """The Python of the environment that a file of pins asks for, which is made where it is not there.

    Raises:
        NotInstalledError: pip could not.
    """
    if not pins.exists():
        return Path(sys.executable)
    if error := _install(pins):
        raise NotInstalledError(f"not installed: {error}")
    return _folder(pins) / "bin" / "python"


def versions_of(pins: Path) -> dict[str, str]:
    """The packages that a file of pins names, with the versions that are installed; none where there is no file."""
    if not pins.exists():
        return {}
    lines = [line for line in pins.read_text().splitlines() if line and not line.startswith(("#", "-"))]
    wanted = {canonicalize_name(Requirement(line).name) for line in lines}
    sites = [str(site) for site in _folder(pins).glob("lib/python*/site-packages")]
    found = {canonicalize_name(one.metadata["Name"]): one.version for one in distributions(path=sites)}
    return {name: found[name] for name in sorted(wanted) if name in found}


def _folder(pins: Path) -> Path:
    return Path(sys.prefix) / "peers" / pins.stem


@cache
def _install(pins: Path) -> str:
    """Make the environment, once; what was wrong, if anything."""
    folder = _folder(pins)
    stamp = folder / "installed"
    wanted = hashlib.sha256(pins.read_bytes() + _CONSTRAINTS.read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return ""
    print(f"installing {pins.stem} into {folder}", flush=True)
    venv.create(folder, clear=True, with_pip=True)
    words = ["install", "--quiet", "--disable-pip-version-check", "-r", str(pins)]
    command = [str(folder / "bin" / "python"), "-m", "pip", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return next((line for line in done.stderr.splitlines() if line.startswith("ERROR")), "pip failed")
    stamp.write_text(wanted)
    return ""
