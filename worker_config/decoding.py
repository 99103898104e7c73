"""What can go wrong where msgspec reads bytes."""

from __future__ import annotations

from typing import Final

import msgspec

# They are not of the form asked for; text that is no UTF-8 is no error of msgspec's own.
UNDECODABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def one_line(error: BaseException) -> str:
    """What an error says; the names of fields that it quotes may hold anything."""
    return " ".join(str(error).split())
