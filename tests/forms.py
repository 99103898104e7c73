"""The two forms of the suite: the short one is `make test`, the long one, which LONG asks for, `make chaos`."""

from __future__ import annotations

import os
from collections.abc import Iterable

import pytest

LONG = bool(os.environ.get("LONG"))
# Another test of the short form shows the same in fewer or quicker steps.
in_long_form = pytest.mark.skipif(not LONG, reason="set LONG for it")


def seeds(short: Iterable[int], long: int, failed_once: Iterable[int] = ()) -> list[int]:
    """Those of a test of drawn injuries: in the long form so many, and each that has failed once.

    `SEEDS=12` asks for the first twelve, and `SEEDS=100:130` for these, whatever the form.
    """
    if asked := os.environ.get("SEEDS"):
        return [*range(*map(int, asked.split(":")))]
    return sorted({*range(long), *failed_once}) if LONG else [*short]
