"""This machine: its settings, what is installed, a module that hides ours, and the manifest --> findings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from producer.doctor.broker import LEAST_VERSION, is_too_old
from producer.doctor.findings import Finding, count_of, error, ok, raised, warning
from worker_config.errors import CeleriacError, ExitCode


@dataclass(frozen=True)
class ManifestFacts:
    """The manifest, as far as it can be read.

    Attributes:
        path: where it should be.
        asked_for: whether somebody named it; else it need not be there.
        models: the names in it.
        errors: what is wrong with it, or with its files.
    """

    path: Path
    asked_for: bool
    models: Sequence[str] = ()
    errors: Sequence[CeleriacError] = ()


def supported(requirements: Sequence[str]) -> SpecifierSet:
    """The versions of TensorFlow that Celeriac works with, by what its own package requires."""
    for text in requirements:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        if requirement.name == "tensorflow":
            return requirement.specifier
    return SpecifierSet()


def check_here(versions: Mapping[str, str], cores: int) -> Finding:
    """What this side is."""
    celeriac, python = versions.get("celeriac", "(not installed)"), versions.get("python", "?")
    return ok("here", f"celeriac {celeriac}, Python {python}, {count_of(cores, 'core')}")


def check_settings(errors: Sequence[CeleriacError], misspelt: Sequence[str] = ()) -> list[Finding]:
    """Environment variables that do not do, and those whose names are none of a setting's."""
    bad = [error("settings", str(cause), "mend or unset the variable", cause.exit_code) for cause in errors]
    bad += [warning("settings", line, "mend its name, or unset it") for line in misspelt]
    return bad or [ok("settings", "all CELERIAC_ variables can be read")]


def check_shadow(stray: CeleriacError | None, *, embedded: bool) -> Finding:
    """A module in the current folder that hides ours from a worker that is started here."""
    if stray is None:
        return ok("folder", "no module in the current folder hides those of Celeriac")
    return raised("folder", stray) if embedded else warning("folder", str(stray), "")


def check_tensorflow(version: str | None, tested: SpecifierSet, *, embedded: bool, runtime: str = "") -> Finding:
    """Only who runs models here needs it, and not all of these: `runtime` is the version of LiteRT."""
    if version is None:
        if not embedded:
            return ok("tensorflow", "not installed here; the workers have theirs")
        if runtime:
            return ok("tensorflow", f"not installed; with LiteRT {runtime} model sets run that were built elsewhere")
        advice = "pip install 'celeriac[worker]', or give the URL of a Redis that has workers with --broker"
        return error("tensorflow", "not installed", advice, ExitCode.USAGE)
    try:
        fits = Version(version) in tested
    except InvalidVersion:
        fits = False
    if not fits:
        found = f"{version} here; Celeriac is tested with {tested}"
        return warning("tensorflow", found, f"pip install 'tensorflow{tested}'")
    return ok("tensorflow", f"{version} here, not imported")


def check_redis_server(path: str, version: str) -> Finding:
    """The one that the embedded system starts."""
    old = is_too_old(version)
    if old is None:
        found = f"{path} does not tell its version"
        return error("redis", found, f"install redis-server {LEAST_VERSION} or newer", ExitCode.USAGE)
    if old:
        found = f"{path} is version {version}, which is too old"
        return error("redis", found, f"install redis-server {LEAST_VERSION} or newer, or Valkey", ExitCode.USAGE)
    return ok("redis", f"{path}, version {version}")


def check_manifest(facts: ManifestFacts, *, embedded: bool) -> list[Finding]:
    """The models that a worker would hold which is started here."""
    if facts.errors and not facts.models and not (embedded or facts.asked_for) and not facts.path.exists():
        return [ok("manifest", "none here; the workers have theirs")]
    if facts.errors:
        return [raised("manifest", cause) for cause in facts.errors]
    return [ok("manifest", f"{facts.path}, all files there: {', '.join(facts.models)}")]
