"""Virtual environments with the wheel of this checkout, and of what is installed here as much as an extra requires."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Collection, Iterable, Iterator
from email import message_from_bytes
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

CHECKOUT = Path(__file__).parents[1]
SITE_PACKAGES = Path(str(metadata.distribution("numpy").locate_file(""))).resolve()


def run(command: list[str], cwd: Path | None = None) -> str:
    """Run a command that must end well, with a clean environment."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "CELERIAC_", "PIP_"))}
    ended = subprocess.run(command, env=clean, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def build_wheel(folder: Path, source: Path = CHECKOUT) -> Path:
    """The wheel of this checkout, or of another source."""
    run([sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(folder), str(source)])
    (wheel,) = folder.glob("*.whl")
    return wheel


def make_environment(folder: Path, wheel: Path, packages: Path) -> Path:
    """A virtual environment with the wheel installed, and other packages on its path, without their `.pth` files."""
    run([sys.executable, "-m", "venv", "--without-pip", str(folder)])
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "--disable-pip-version-check"]
    run([*pip, "install", "--quiet", "--no-index", "--no-deps", str(wheel)])
    # Only now: pip would take our own installation in there for one to replace.
    (site_of(folder) / "packages.pth").write_text(f"{packages}\n")
    return folder


def make_small_environment(folder: Path, wheel: Path, extras: Collection[str] = (), without: str = "") -> Path:
    """The same with links to what the wheel requires with these extras alone, but for one distribution."""
    packages = folder / "packages"
    packages.mkdir(parents=True)
    for name in required(wheel, extras) - {without}:
        for top in {Path(file).parts[0] for file in metadata.files(name) or ()}:
            if (SITE_PACKAGES / top).exists() and not (packages / top).exists():
                (packages / top).symlink_to(SITE_PACKAGES / top)
    return make_environment(folder / "venv", wheel, packages)


def site_of(environment: Path) -> Path:
    """Where its own packages are."""
    (site,) = environment.glob("lib/python*/site-packages")
    return site


def required(wheel: Path, extras: Collection[str] = ()) -> set[str]:
    """Names of all distributions that come with the wheel, when it is installed with these extras."""
    with zipfile.ZipFile(wheel) as archive:
        (path,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        told = message_from_bytes(archive.read(path))
    found: set[str] = set()
    waiting = list(requirements(told.get_all("Requires-Dist", []), extras))
    while waiting:
        if (name := waiting.pop()) not in found:
            found.add(name)
            waiting += requirements(metadata.requires(name) or ())
    return found


def requirements(lines: Iterable[str], extras: Collection[str] = ()) -> Iterator[str]:
    """The names in lines such as `numpy>=1.26; extra == 'worker'` that count here."""
    for requirement in map(Requirement, lines):
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield canonicalize_name(requirement.name)
