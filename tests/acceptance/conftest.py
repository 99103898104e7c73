"""What commands under test are told."""

from __future__ import annotations

import pytest

from tests.systems import System


@pytest.fixture
def at(system: System) -> list[str]:
    """Options that send a command to the module's system."""
    return ["--broker", system.url]
