"""Tells which packages that run models are installed, and in which version, without importing them."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version


@cache
def installed(package: str) -> str:
    """The version of a package; empty where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def tensorflow_version() -> str:
    """That of TensorFlow; empty on a machine that has the runtimes of other executors alone."""
    return installed("tensorflow")
