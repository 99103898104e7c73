"""What others raise, and what people misspell, on one line: by libraries, by msgspec, for names that are not known.

any error --one_line--> its text        a library that lacks --import_optional--> ConfigError, how to install it
a name --did_you_mean--> the one like it                many names --some_of--> the first ones, and how many more
"""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from worker_config.errors import ConfigError

# Bytes that msgspec reads are not of the form asked for; text that is no UTF-8 is no error of its own.
UNDECODABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def one_line(error: BaseException) -> str:
    """What an error says, or its type where that is nothing; what it quotes may hold anything."""
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
            f"{what} needs {module.partition('.')[0]} ({one_line(error)}); run: pip install 'celeriac[{extra}]'"
        ) from error


def did_you_mean(name: str, known: Iterable[str], prefix: str = "") -> str:
    """What to say behind a name that is not known: ` (did you mean 'digits'?)`; empty where none is like it.

    `prefix` is what all of them begin with besides.
    """
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.7)
    return f" (did you mean {prefix + close[0]!r}?)" if close else ""


def some_of(texts: Iterable[str], most: int = 5) -> str:
    """The first of many texts, and how many more there are."""
    every = list(texts)
    more = len(every) - most
    return ", ".join(every[:most]) + (f" and {more} more" if more > 0 else "")


def with_key_meant(error: BaseException, known: Iterable[str]) -> str:
    """What an error says; where it is about an unknown field, also which of the known ones was meant."""
    text = one_line(error)
    unknown = re.search("unknown field `(.*?)`", text)
    return text + (did_you_mean(unknown[1], known) if unknown else "")
