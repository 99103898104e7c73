"""The two forms of the suite: the short one is `make test`, the long one, which LONG asks for, `make chaos`."""

from __future__ import annotations

import os

import pytest

LONG = bool(os.environ.get("LONG"))
# Another test of the short form shows the same in fewer or quicker steps.
in_long_form = pytest.mark.skipif(not LONG, reason="set LONG for it")
