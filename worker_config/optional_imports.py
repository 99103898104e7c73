"""Libraries that only some formats need: imported when they are, or an error that says how to install them."""

from __future__ import annotations

import importlib
from typing import Any

from worker_config.errors import ConfigError


def cause(error: BaseException) -> str:
    """The text of any error, on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def import_optional(module: str, extra: str, what: str = "this data set") -> Any:
    """A library that only some formats need; `what` needs it.

    Raises:
        ConfigError: it is not installed; the text says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"{what} needs {module.partition('.')[0]} ({cause(error)}); run: pip install 'celeriac[{extra}]'"
        ) from error
