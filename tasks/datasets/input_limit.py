"""How much of an input may be in memory at once: what a file declares is held against it before memory is taken."""

from __future__ import annotations

import os
from dataclasses import dataclass

from worker_config.errors import InputError
from worker_config.settings import Settings, variable_of

_VARIABLE = variable_of("input_mib")


@dataclass(frozen=True, slots=True)
class InputLimit:
    """What a record, an array, a page or a block of rows may unpack to."""

    bytes: int

    def check(self, declared_bytes: int, where: str, what: str) -> None:
        """Refuse what declares more; `what` is it, as "record 3"."""
        if declared_bytes > self.bytes:
            raise InputError(
                f"{where}: {what} has {declared_bytes:,} bytes in memory, as the file says, and {_VARIABLE} allows "
                f"{self.bytes // 2**20:,} MiB; if the file is as it should be, set {_VARIABLE} to "
                f"{-(-declared_bytes // 2**20)}"
            )


def input_limit() -> InputLimit:
    """The limit that the environment gives; raises ConfigError where it is no number."""
    return InputLimit(Settings.from_env({_VARIABLE: os.environ.get(_VARIABLE, "")}).input_mib * 2**20)
