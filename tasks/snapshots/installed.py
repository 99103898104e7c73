"""Tells which packages that run models are installed, and in which version, without importing them."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version

from tasks.protocol.records import versions_here
from worker_config.errors import ConfigError


@cache
def installed(package: str) -> str:
    """The version of a package; empty where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


@cache
def tensorflow_version() -> str:
    """That of TensorFlow; empty on a machine that has the runtimes of other executors alone."""
    return versions_here().get("tensorflow", "")


def check_runtime() -> None:
    """Make sure that there is what models are run by, with TensorFlow or without.

    Raises:
        ConfigError: there is neither.
    """
    if not installed("psutil"):
        raise ConfigError(
            "what runs models, TensorFlow or another runtime, is not installed; a worker needs it: "
            "pip install 'celeriac[worker]', or, for a model set that was built elsewhere, 'celeriac[runtime]'"
        )
