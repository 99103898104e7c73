"""What can go wrong where msgspec reads bytes, and names that people write wrongly."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Final

import msgspec

# They are not of the form asked for; text that is no UTF-8 is no error of msgspec's own.
UNDECODABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def one_line(error: BaseException) -> str:
    """What an error says; the names of fields that it quotes may hold anything."""
    return " ".join(str(error).split())


def did_you_mean(name: str, known: Iterable[str], prefix: str = "") -> str:
    """What to say behind a name that is not known: ` (did you mean 'digits'?)`; empty where none is like it.

    `prefix` is what all of them begin with besides.
    """
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.7)
    return f" (did you mean {prefix + close[0]!r}?)" if close else ""


def with_key_meant(error: BaseException, known: Iterable[str]) -> str:
    """What an error says; where it is about an unknown field, also which of the known ones was meant."""
    text = one_line(error)
    unknown = re.search("unknown field `(.*?)`", text)
    return text + (did_you_mean(unknown[1], known) if unknown else "")
